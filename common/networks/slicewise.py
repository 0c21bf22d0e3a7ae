"""Runs a two-dimensional network on every slice of a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .layers import find_layer


def fold_slices(volumes: Tensor) -> Tensor:
    """Returns the slices of volumes one after the other.

    Args:
        volumes: ``(B, C, H, W, D)``.

    Returns:
        ``(B * D, C, H, W)``, the slices of the first volume first.
    """
    return volumes.movedim(-1, 1).flatten(0, 1)


def unfold_slices(slices: Tensor, depth: int) -> Tensor:
    """Returns the volumes that slices belong to; undoes :func:`fold_slices`.

    Args:
        slices: ``(B * D, C, H, W)``, the slices of the first volume first.
        depth: Number of slices of a volume, D.

    Returns:
        ``(B, C, H, W, D)``, a view of the same memory.
    """
    return slices.unflatten(0, (-1, depth)).movedim(1, -1)


class SliceWise(nn.Module):
    """Segments a volume slice by slice with a two-dimensional network, at the full resolution of the plane.

    For volumes whose slices lie far apart. Slices along the last axis are folded into the batch, so a window of any
    depth, also one slice, gives the same logits. The head of the network is taken out and run after the module
    ``features``: the last feature map of the whole volume passes there, ``(B, n, H, W, D)``, for signatures.

    Args:
        member: Function that makes the network from the settings, such as MONAI's ``BasicUNet``.
        head: Name of the layer that makes logits of the last feature map, and whose output the network returns;
            ``final_conv`` by default, as in ``BasicUNet``.
        **settings: Arguments of ``member`` but for ``spatial_dims``, which is 2.

    Raises:
        ConfigError: When the network has no layer of the name ``head``.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> network = SliceWise(BasicUNet, in_channels=1, out_channels=3, features=(4, 4, 4, 4, 4, 4))
        >>> network(torch.zeros(2, 1, 32, 16, 5)).shape
        torch.Size([2, 3, 32, 16, 5])
    """

    def __init__(self, member: Callable[..., nn.Module], *, head: str = "final_conv", **settings: Any) -> None:
        super().__init__()
        self.body = member(spatial_dims=2, **settings)
        self.features = nn.Identity()
        self.head = find_layer(self.body, head, setting="head")
        parent, _, name = head.rpartition(".")
        setattr(self.body.get_submodule(parent), name, nn.Identity())
        # A training step of BasicUNet takes a fifth less on a CPU; feature maps take over the layout of the weights.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs of torch

    def forward(self, volume: Tensor) -> Tensor:
        """Maps volumes ``(B, in_channels, H, W, D)`` to logits ``(B, out_channels, H, W, D)``."""
        depth = volume.shape[-1]
        features = self.features(unfold_slices(self.body(fold_slices(volume)), depth))
        return unfold_slices(self.head(fold_slices(features)), depth)
