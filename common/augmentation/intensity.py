"""Changes intensities of whole batches: gamma, gain, offset and noise."""

from __future__ import annotations

import torch
from torch import Tensor


def change_gamma(images: Tensor, gamma: Tensor) -> Tensor:
    """Returns images whose intensities, between the minimum and the maximum of each channel, are raised to a power.

    Args:
        images: ``(B, C, H, W[, D])``, float.
        gamma: Exponents, above 0, ``(B, C)``; 1 changes nothing.

    Returns:
        The same shape; minimum and maximum of every channel stay.
    """
    axes = tuple(range(2, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    extent = (high - low).clamp_min(torch.finfo(images.dtype).tiny)
    return ((images - low) / extent) ** _spread(gamma, images) * extent + low


def change_scale(images: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Returns ``images * gain + offset``.

    Args:
        images: ``(B, C, H, W[, D])``, float.
        gain: Factors, ``(B, C)``.
        offset: Added, in units of the normalized image, ``(B, C)``.
    """
    return images * _spread(gain, images) + _spread(offset, images)


def _spread(values: Tensor, images: Tensor) -> Tensor:
    """Values ``(B, C)`` with as many axes as the images."""
    return values.to(images, non_blocking=True).reshape(*values.shape, *[1] * (images.ndim - 2))
