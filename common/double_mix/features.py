"""Reads and changes the feature maps of students while they segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.layers import find_layer
from .draws import uniform
from .students import members_of


class FeatureTap:
    """Finds one feature map in every student, the last before the head as a rule.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        layer: Name of the layer in the first student, with ``network_a.``, as ``feature_layers`` names it; the same
            layer is taken of a second one.

    Raises:
        ConfigError: When there is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        own = layer.removeprefix("network_a.")
        self.layers = [find_layer(student, own, setting="feature_layers") for student in members_of(network)]

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Gives a list that takes the map of each student, ``(B, n, H, W[, D])``, as it is made."""
        maps: list[Tensor] = []
        with self._hooked(lambda _module, _inputs, output: maps.append(output)):
            yield maps

    @contextmanager
    def drop(self, rate: float, *, generator: torch.Generator | None = None) -> Iterator[None]:
        """Sets channels of the maps to zero at random, and scales the others up, as dropout of whole channels does.

        Args:
            rate: Probability of each channel of each image to be dropped, from 0 and below 1.
            generator: Generator of the draw, on the CPU. With ``None``, the default, torch's own.
        """

        def dropped(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            kept = uniform(tuple(output.shape[:2]), output.device, generator) >= rate
            return output * kept.reshape(*kept.shape, *[1] * (output.ndim - 2)) / (1 - rate)

        with self._hooked(dropped):
            yield

    @torch.no_grad()
    def channels(self, network: nn.Module, shape: Sequence[int]) -> int:
        """Returns the number of channels of the maps, by one pass of zeros in evaluation mode.

        Args:
            network: The network, as the constructor was given it.
            shape: Shape of an image that the network takes, ``(1, n, H, W[, D])``.
        """
        student = members_of(network)[0]
        mode, device = student.training, next(student.parameters()).device
        student.eval()
        with self.watch() as maps:
            student(torch.zeros(tuple(shape), device=device))
        student.train(mode)
        return maps[0].shape[1]

    @contextmanager
    def _hooked(self, hook: Callable[[nn.Module, Any, Tensor], Any]) -> Iterator[None]:
        handles = [layer.register_forward_hook(hook) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
