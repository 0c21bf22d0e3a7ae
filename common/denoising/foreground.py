"""Finds where an image shows anything, and where it does so far enough from the edge."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

THRESHOLD = 0.01
"""Smallest sum of channels, exclusive, of a voxel of the foreground, after scaling; the paper's."""


def foreground_mask(image: Tensor, *, foreground_threshold: float = THRESHOLD, channel_dim: int = 0) -> Tensor:
    """Returns where the sum over channels exceeds a threshold.

    Holzschuh et al., MIDL 2023 (after Kascenas et al., *The role of noise in denoising models for anomaly detection in
    medical images*, 2023, https://arxiv.org/abs/2301.08330).

    Args:
        image: Image ``(C, H, W[, D])``, each channel divided by its 99th percentile.
        foreground_threshold: Sum of channels above which a voxel is foreground. 0.01, the paper's, by default.
        channel_dim: Axis of the channels: 0, the default, or 1 for a batch ``(B, C, H, W[, D])``.

    Returns:
        Of type bool, one channel in place of C.

    Example:
        >>> foreground_mask(torch.tensor([[[0.004, 0.5]], [[0.004, 0.0]]]))
        tensor([[[False,  True]]])
    """
    return image.sum(dim=channel_dim, keepdim=True) > foreground_threshold


def erode_mask(mask: Tensor, *, size: int = 5, coverage: float = 0.95) -> Tensor:
    """Returns where more than a share of a voxel's neighborhood belongs to a mask; beyond the image nothing does.

    Args:
        mask: Mask, ``(B, 1, H, W[, D])`` bool.
        size: Size of the neighborhood along each axis, in voxels, odd. 5, the paper's, by default.
        coverage: Share of the neighborhood that must be exceeded, in [0, 1). 0.95, the paper's, by default.
    """
    pool = avg_pool2d if mask.ndim == 4 else avg_pool3d
    share = pool(mask.to(torch.float32), size, stride=1, padding=size // 2, count_include_pad=True)
    return share > coverage
