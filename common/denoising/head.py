"""Replaces a network's head: the rest of the network goes from one task to the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, WeightsError
from ..runtime.distributed import unwrap
from ..runtime.options import read_flag
from ..runtime.weights import read_checkpoint


def replace_head(network: nn.Module, out_channels: int, *, head: str = "head", residual: bool = False) -> nn.Module:
    """Returns a copy of a network whose head has another number of channels and fresh weights.

    Of a network that is guided by a denoiser (``HeadedUNet``), it is a copy of that.

    Args:
        network: Network whose last convolution is a module of its own; it is not changed.
        out_channels: Number of channels of the new head: one for each class, or those of a reconstruction.
        head: Name of that module; ``head`` by default.
        residual: Whether the copy adds its output to its input, so that it learns what to change rather than the whole
            image. False by default. It is not in the paper, but the copy learns to denoise in a fraction of the time.

    Raises:
        ConfigError: When the network has no convolution of that name.
    """
    copied = copy.deepcopy(denoiser_of(network)).requires_grad_()
    parent, _, name = head.rpartition(".")
    old = getattr(copied.get_submodule(parent), name, None) if _has(copied, parent) else None
    if not isinstance(old, nn.Conv2d | nn.Conv3d):
        names = ", ".join(name for name, part in copied.named_modules() if isinstance(part, nn.Conv2d | nn.Conv3d))
        raise ConfigError(f"head is {head!r}, which is no convolution of the network; its convolutions are: {names}")
    settings: dict[str, Any] = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding")}
    # Drawn from the seed alone, so that how much was drawn before does not count.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        new = type(old)(old.in_channels, out_channels, bias=old.bias is not None, **settings)
    setattr(copied.get_submodule(parent), name, new.to(old.weight.device))
    if residual:
        # A hook leaves the names of the weights as they are, so that they fit the network.
        copied.register_forward_hook(_add_input)
    return copied


def has_guide(*, guided: bool | str, pretrained: bool | str) -> bool:
    """Returns whether a denoiser guides the segmentation: where that is wanted, and there is a denoiser.

    Args:
        guided: Whether it is wanted, see :func:`~..runtime.options.read_flag`.
        pretrained: Whether a denoiser is trained, likewise.
    """
    return read_flag(guided, "guided") and read_flag(pretrained, "pretrained")


def denoiser_of(network: nn.Module) -> nn.Module:
    """Returns the denoiser that guides a network, see ``HeadedUNet``; where none does, the network itself."""
    guide = getattr(network, "guide", None)
    return guide if isinstance(guide, nn.Module) else network


def _add_input(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return inputs[0] + output


def _has(network: nn.Module, name: str) -> bool:
    return not name or name in dict(network.named_modules())


def load_body(network: nn.Module, weights: Mapping[str, Tensor], *, head: str = "head") -> None:
    """Copies weights into a network, all but those of its head, which stay as they are.

    A network that is guided by a denoiser (``HeadedUNet``) takes them, with the head, as its guide alone.

    Args:
        network: Network that takes the weights, perhaps in a data-parallel wrapper.
        weights: State dictionary of a network that differs in its head alone.
        head: Name of the module that is the head; ``head`` by default.

    Raises:
        WeightsError: When anything but the head differs.
    """
    target = denoiser_of(unwrap(network))
    own = target.state_dict()
    spared = (f"{head}.",) if target is unwrap(network) else ()
    body = {name: value for name, value in weights.items() if not name.startswith(spared)}
    needed = {name for name in own if not name.startswith(spared)}
    mismatched = sorted(body.keys() ^ needed)
    mismatched += [name for name in body if name in own and body[name].shape != own[name].shape]
    if mismatched:
        raise WeightsError(
            f"the pre-trained weights belong to another network: {len(mismatched)} tensor(s) beside the head differ, "
            f"the first is {mismatched[0]!r}; pre-train with the same network_def"
        )
    target.load_state_dict(own | body)


def load_body_from(network: nn.Module, path: str | Path, *, head: str = "head", device: torch.device) -> None:
    """:func:`load_body` from a file."""
    load_body(network, read_checkpoint(path, device=device), head=head)
