"""Measures the calibration of predicted probabilities near the surface of a structure.

Karimi and Gholipour, IEEE Trans. Artif. Intell. 4(2), 2023, section III-E; bins and band as fixed in this project.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.transforms import distance_transform_edt
from torch import Tensor

from .errors import ConfigError


def calibration_bins(prob: Tensor, target: Tensor, *, num_bins: int = 10, mask: Tensor | None = None) -> Tensor:
    """Returns what happened in every bin of predicted probability.

    Args:
        prob: Predicted foreground probability of any shape, in [0, 1].
        target: Ground truth of the same shape, zero or one.
        num_bins: Number of equal-width bins K, 10 by default; the bin of p is ``min(floor(K * p), K - 1)``.
        mask: Mask of the same shape, nonzero at the voxels that count; all count by default.

    Returns:
        ``(3, num_bins)`` float64: number of voxels, sum of probabilities, number of foreground voxels. Such sums may be
        added over cases.

    Raises:
        ConfigError: When shapes differ or a probability lies outside [0, 1].
    """
    if prob.shape != target.shape or (mask is not None and mask.shape != prob.shape):
        raise ConfigError(f"prob {tuple(prob.shape)}, target {tuple(target.shape)} and mask must have equal shapes")
    chosen = torch.ones_like(prob, dtype=torch.bool) if mask is None else mask.bool()
    p, y = prob[chosen].double(), target[chosen].double()
    if p.numel() and not bool(((p >= 0) & (p <= 1)).all()):
        raise ConfigError("prob must lie in [0, 1]; apply the sigmoid first")
    index = (p * num_bins).floor().long().clamp_max(num_bins - 1)
    sums = [torch.bincount(index, weights=weights, minlength=num_bins) for weights in (torch.ones_like(p), p, y)]
    return torch.stack([part.double() for part in sums]).cpu()


def errors_from_bins(bins: Tensor) -> tuple[float, float]:
    """Returns ``(ECE, MCE)`` from :func:`calibration_bins`; NaN for both where no voxel counts."""
    number, probability, foreground = bins[:, bins[0] > 0]
    if number.numel() == 0:
        return math.nan, math.nan
    gaps = (foreground / number - probability / number).abs()
    return float((number / number.sum() * gaps).sum()), float(gaps.max())


def calibration_error(
    prob: Tensor, target: Tensor, *, num_bins: int = 10, mask: Tensor | None = None
) -> tuple[float, float]:
    """Returns the expected and the maximum calibration error.

    ``ECE = sum_k |S_k| / N * |acc_k - conf_k|`` and ``MCE = max_k |acc_k - conf_k|`` over bins that are not empty. Here
    ``conf_k`` is the mean predicted foreground probability in bin k, and ``acc_k`` the share of foreground there.

    Args:
        prob: Predicted foreground probability of any shape, in [0, 1].
        target: Ground truth of the same shape, zero or one.
        num_bins: Number of equal-width bins K; 10 by default.
        mask: Mask of the same shape, nonzero at the voxels that count, see :func:`boundary_band`; all count by default.

    Returns:
        ``(ECE, MCE)`` in [0, 1], lower is better; NaN for both where no voxel counts.

    Raises:
        ConfigError: When shapes differ or a probability lies outside [0, 1].

    Example:
        >>> ece, mce = calibration_error(torch.tensor([0.9, 0.9, 0.1, 0.1]), torch.tensor([1, 0, 0, 0]))
        >>> round(ece, 6), round(mce, 6)
        (0.25, 0.4)
    """
    return errors_from_bins(calibration_bins(prob, target, num_bins=num_bins, mask=mask))


def boundary_band(label: Tensor, width: float = 10) -> Tensor:
    """Returns the voxels within ``width`` voxels of the surface of a structure, inside and outside.

    Inside, the distance is the Euclidean distance to the nearest background voxel, outside to the nearest foreground
    voxel, in voxels.

    Args:
        label: Label ``(H, W[, D])``, nonzero in the structure.
        width: Largest distance from the surface, in voxels; 10 by default, as in the paper.

    Returns:
        Boolean mask of the shape of ``label``; all false where the structure is absent or fills the image, since there
        is no surface then.
    """
    inside = label != 0
    if not bool(inside.any()) or bool(inside.all()):
        return torch.zeros_like(inside)
    both = torch.stack([inside, ~inside]).float()
    # One of the two distances is zero at every voxel.
    distance = torch.as_tensor(np.asarray(distance_transform_edt(both.cpu()))).amax(dim=0)
    return (distance <= width).to(label.device)
