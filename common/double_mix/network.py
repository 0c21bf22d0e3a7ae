"""Joins two networks that train each other and answer as one, or lets one learn by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class CoTrainedPair(nn.Module):
    """Two networks A and B of one kind with different initial weights.

    In training mode the pair returns the logits of both; in evaluation mode it returns the logarithm of the mean of
    their softmax outputs (Zhang et al., *Double-Mix Pseudo-Label Framework*), logits like any other network's.
    The layers of A are found under ``network_a.``, those of B under ``network_b.``.

    Args:
        member: Function that makes one network from the settings. The network returns logits ``(B, C, H, W[, D])``, C
            at least 2.
        **settings: Arguments of ``member``.

    Example:
        >>> from monai.networks.nets import VNet
        >>> pair = CoTrainedPair(VNet, spatial_dims=2, in_channels=1, out_channels=3).eval()
        >>> pair(torch.zeros(1, 1, 32, 32)).exp().sum(dim=1).mean()
        tensor(1., grad_fn=<MeanBackward0>)
    """

    students: ClassVar[int] = 2
    """Number of networks."""

    def __init__(self, member: Callable[..., nn.Module], **settings: Any) -> None:
        super().__init__()
        self.network_a = member(**settings)
        self.network_b = member(**settings)

    def forward(self, image: Tensor, image_b: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Maps images ``(B, n, H, W[, D])`` to logits ``(B, C, H, W[, D])``, of both networks in training mode.

        Args:
            image: Images that A is given, and B too unless it has images of its own.
            image_b: Images that B is given, of the same shape. With ``None``, the default, those of A.
        """
        logits = self.network_a(image), self.network_b(image if image_b is None else image_b)
        if self.training:
            return logits
        first, second = logits[0].log_softmax(dim=1), logits[1].log_softmax(dim=1)
        return torch.logaddexp(first, second) - math.log(2)

    def each(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of both networks in whatever mode they are."""
        return self.network_a(image), self.network_b(image)


class SingleStudent(nn.Module):
    """One network in the place of a :class:`CoTrainedPair`, for methods that need no second one: half the cost.

    In training mode it returns its logits as the only item of a tuple, in evaluation mode the logits. Its layers are
    found under ``network_a.``, as those of the pair's first network.

    Args:
        member: Function that makes the network from the settings, see :class:`CoTrainedPair`.
        **settings: Arguments of ``member``.
    """

    students: ClassVar[int] = 1
    """Number of networks."""

    def __init__(self, member: Callable[..., nn.Module], **settings: Any) -> None:
        super().__init__()
        self.network_a = member(**settings)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor]:
        """Maps images ``(B, n, H, W[, D])`` to logits ``(B, C, H, W[, D])``, in a tuple in training mode."""
        logits = self.network_a(image)
        return (logits,) if self.training else logits

    def each(self, image: Tensor) -> tuple[Tensor]:
        """Returns the logits in whatever mode it is, in a tuple."""
        return (self.network_a(image),)
