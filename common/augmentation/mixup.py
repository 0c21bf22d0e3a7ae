"""Mixes pairs of images and of their labels (mixup)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError


def draw_pairs(number: int, mixup_alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns which images of a batch are mixed, and with which share of each.

    Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018: shares follow a Beta distribution with both
    parameters ``alpha``; the smaller it is, the more images are left nearly as they are.

    Args:
        number: Number of images in the batch, B.
        mixup_alpha: Both parameters of the distribution, above 0.
        generator: Generator on the CPU.

    Returns:
        Partner of each image, ``(B,)`` int64, a permutation; share of the image itself, ``(B,)`` in [0, 1].

    Raises:
        ConfigError: When ``mixup_alpha`` is not above 0.
    """
    if not mixup_alpha > 0:
        raise ConfigError(f"mixup_alpha is {mixup_alpha}; accepted are numbers above 0")
    partners = torch.randperm(number, generator=generator)
    # Torch's own draws from this distribution take no generator.
    state = int(torch.randint(2**62, (), generator=generator))
    shares = np.random.default_rng(state).beta(mixup_alpha, mixup_alpha, size=number)
    return partners, torch.from_numpy(shares)


def mix_pairs(images: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Returns convex combinations of the images of a batch, and of their labels.

    Args:
        images: Images ``(B, C, H, W[, D])``, float.
        labels: Binary channels or probabilities ``(B, K, H, W[, D])``, of any dtype.
        partners: Number of the image that each is mixed with, ``(B,)`` int64.
        shares: Share of the image itself, ``(B,)`` in [0, 1]; the rest is its partner's.

    Returns:
        Mixed images of the same dtype, and labels as float32 in [0, 1].

    Example:
        >>> images, labels = torch.tensor([[[0.0, 4.0]], [[8.0, 0.0]]]), torch.tensor([[[0, 1]], [[1, 0]]])
        >>> mix_pairs(images, labels, torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))[1].tolist()
        [[[0.25, 0.75]], [[0.5, 0.5]]]
    """
    order = partners.to(images.device, non_blocking=True)
    weights = shares.to(images.device, torch.float32, non_blocking=True)

    def mix(values: Tensor) -> Tensor:
        own = weights.reshape(-1, *[1] * (values.ndim - 1)).to(values.dtype)
        return values * own + values[order] * (1 - own)

    return mix(images), mix(labels.float())
