"""Runs a network once and tells what passes through it: its output, and its first and last feature map."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, one_line

MIN_CHANNELS = 4
"""Fewest channels of a feature map that tells something of a scan, unless there is no other."""


@dataclass(frozen=True)
class FeatureMap:
    """Output of a layer that ran once.

    Args:
        name: Name of the layer, as ``named_modules`` gives it.
        begin: Number of the layer among all, in the order in which they began.
        end: Number of layers that had begun when it ended; it holds those from ``begin`` to ``end``.
        channels: Number of channels.
        size: Size along each spatial axis.
    """

    name: str
    begin: int
    end: int
    channels: int
    size: tuple[int, ...]

    def holds(self, other: FeatureMap) -> bool:
        """Returns whether the other layer is this one or runs within it."""
        return self.begin <= other.begin and other.end <= self.end


@dataclass(frozen=True)
class Probe:
    """What a network does with one window.

    Args:
        out_channels: Number of channels of its output.
        ends: Names of the layers that give the first and the last feature map; one name where these are the same, and
            none where no layer gives a map or layers cannot be watched.
    """

    out_channels: int
    ends: tuple[str, ...]


def is_scripted(network: nn.Module) -> bool:
    """Returns whether a network is TorchScript, whose inner layers torch lets nobody watch."""
    return isinstance(network, torch.jit.ScriptModule)


def input_axes(state_dict: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Returns the number of channels and of spatial axes that the first convolution of a network takes.

    Args:
        state_dict: State of the network.

    Returns:
        Both numbers; ``None`` where no tensor is that of a convolution in two or three dimensions.
    """
    kernels = (tensor for tensor in state_dict.values() if tensor.ndim in (4, 5))
    first = next(kernels, None)
    return None if first is None else (first.shape[1], first.ndim - 2)


def probe_network(network: nn.Module, in_channels: int, window: Sequence[int]) -> Probe:
    """Runs a network on one window of zeros; it is in evaluation mode afterwards.

    Args:
        network: Network on any device.
        in_channels: Number of channels of its input, at least 1.
        window: Voxels of the window along each axis.

    Raises:
        ConfigError: When it cannot be run on an image alone, or gives something else than a tensor of logits of the
            window's size.
    """
    network.eval()
    place = next(iter(network.state_dict().values()), torch.empty(0)).device
    image = torch.zeros(1, in_channels, *window, device=place)
    text = f"the network cannot be used with an image of {in_channels} channel(s) and a window of {list(window)}"
    watch = _Watch(network, window)
    try:
        with torch.no_grad(), watch.running():
            output = network(image)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        reason = one_line(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
        raise ConfigError(
            f"{text}: {reason}; it must take one image and nothing else: set in_channels and roi_size to what it was "
            "trained with, or give a network that needs one input"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != image.ndim or output.shape[2:] != image.shape[2:]:
        found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{text}: it returns {found}; needed is one tensor of logits, (1, classes, {', '.join(map(str, window))})"
        )
    return Probe(output.shape[1], find_ends(watch.features(output)))


class _Watch:
    """Notes the feature maps of a network's layers while it runs.

    Args:
        network: Network; of TorchScript, nothing is noted.
        window: Voxels of the window along each axis.
    """

    def __init__(self, network: nn.Module, window: Sequence[int]) -> None:
        self.layers = {} if is_scripted(network) else {name: part for name, part in network.named_modules() if name}
        self.window = tuple(window)
        self.begun: list[str] = []
        self.begins: dict[str, list[int]] = {}
        self.maps: dict[str, list[tuple[FeatureMap, weakref.ref[Tensor]]]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hooks every layer while the block runs."""
        handles = []
        try:
            for name, layer in self.layers.items():
                handles.append(layer.register_forward_pre_hook(partial(self._begin, name)))
                handles.append(layer.register_forward_hook(partial(self._end, name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, name: str, *_: Any) -> None:
        self.begins.setdefault(name, []).append(len(self.begun))
        self.begun.append(name)

    def _end(self, name: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        begin, axes = self.begins[name].pop(), len(self.window)
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if len(shape) == axes + 1 == 4 and shape[0] == self.window[-1]:
            # A two-dimensional network inside ``SliceWise`` sees all slices as one batch.
            shape = (1, *shape[1:], shape[0])
        if len(shape) == axes + 2 and shape[0] == 1:
            found = FeatureMap(name, begin, len(self.begun), shape[1], shape[2:])
            # Kept weakly: the maps of a large window take gigabytes.
            self.maps.setdefault(name, []).append((found, weakref.ref(output)))

    def features(self, output: Tensor) -> list[FeatureMap]:
        """Returns the maps of the layers that ran once, but for those that are the output or look like it."""
        once = [found[0] for name, found in self.maps.items() if self.begun.count(name) == 1]
        inner = [found for found, reference in once if reference() is not output]
        like_output = (output.shape[1], tuple(output.shape[2:]))
        rich = [found for found in inner if found.channels >= MIN_CHANNELS]
        return [found for found in rich if (found.channels, found.size) != like_output] or rich or inner


def find_ends(maps: Sequence[FeatureMap]) -> tuple[str, ...]:
    """Returns the names of the layers of the first and the last feature map, in this order; one where they are alike.

    Of layers one inside the other that give maps of one size, it is the outermost, such as a whole block. It never
    holds both ends, and the first one not more than half of the layers.

    Args:
        maps: Feature maps of a network, each of a layer that ran once.
    """
    if not maps:
        return ()
    first, last = min(maps, key=lambda found: found.end), max(maps, key=lambda found: found.begin)
    early = [found for found in maps if found.end <= last.end / 2]
    ends = (_outermost(first, last, early), _outermost(last, first, maps))
    return tuple(dict.fromkeys(found.name for found in ends))


def _outermost(inner: FeatureMap, other: FeatureMap, maps: Sequence[FeatureMap]) -> FeatureMap:
    """The outermost layer around an inner one that gives a map of its size and does not hold the other one."""
    around = [found for found in maps if found.holds(inner) and found.size == inner.size and not found.holds(other)]
    return max(around, key=lambda found: found.end - found.begin, default=inner)
