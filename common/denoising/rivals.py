"""Scores abnormality without a denoiser: by bright intensities, a principal component analysis, or an atlas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .foreground import THRESHOLD
from .score import anomaly_score

Scorer = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Takes images ``(B, C, H, W[, D])``; gives scores, higher for more abnormal, and class indices or none."""

COMPONENTS = 32
"""Largest number of principal components."""

MOST_IMAGES = 2000
"""Largest number of healthy images that rivals learn from: the time of principal components grows with its cube."""

LEAST_SD = 0.1
"""Smallest standard deviation of an atlas, where each channel is divided by its percentile."""


def intensity_scorer(channel: int | None, foreground_threshold: float = THRESHOLD) -> Scorer:
    """Returns a scorer that takes what is bright for abnormal: a channel, or the mean of all; smoothed alike."""

    def score(images: Tensor) -> tuple[Tensor, None]:
        kept = torch.ones_like(images)
        if channel is not None:
            kept[:, channel] = 0
        rest = torch.zeros_like(images) if channel is None else images * kept
        return anomaly_score(images, rest, foreground_threshold=foreground_threshold), None

    return score


def principal_components(images: Tensor, number: int = COMPONENTS) -> tuple[Tensor, Tensor]:
    """Returns the mean of images, and orthonormal directions in which they vary most.

    Args:
        images: Images ``(N, C, H, W[, D])``, at least two.
        number: Largest number of directions, at least 1; there are at most N - 1. 32 by default.

    Returns:
        Mean ``(F,)`` and directions ``(K, F)``, over the flattened images.
    """
    flat = images.flatten(1)
    mean = flat.mean(dim=0)
    centered = flat - mean
    # There are far fewer images than voxels: their products say as much as those of voxels.
    values, vectors = torch.linalg.eigh(centered.double() @ centered.double().T)
    kept = values.flip(0)[: min(number, len(images) - 1)]
    kept = kept[kept > kept[0] * 1e-12] if len(kept) and kept[0] > 0 else kept[:0]
    weights = vectors.flip(1)[:, : len(kept)] / kept.sqrt()
    return mean, (weights.T @ centered.double()).to(flat.dtype)


def pca_scorer(images: Tensor, foreground_threshold: float = THRESHOLD, number: int = COMPONENTS) -> Scorer:
    """Returns a scorer by what the principal components of healthy images do not explain.

    Args:
        images: Healthy images ``(N, C, H, W[, D])``, at least two.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        number: Largest number of components, at least 1. 32 by default.
    """
    mean, directions = principal_components(images, number)

    def score(given: Tensor) -> tuple[Tensor, None]:
        center, axes = mean.to(given), directions.to(given)
        flat = given.flatten(1) - center
        rebuilt = (center + flat @ axes.T @ axes).reshape(given.shape)
        return anomaly_score(given, rebuilt, foreground_threshold=foreground_threshold), None

    return score


def atlas_scorer(images: Tensor, foreground_threshold: float = THRESHOLD) -> Scorer:
    """Returns a scorer by how many standard deviations a voxel lies from the mean of healthy images at its place.

    Args:
        images: Healthy images ``(N, C, H, W[, D])``, at least two.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
    """
    mean, sd = images.mean(dim=0), images.std(dim=0).clamp(min=LEAST_SD)

    def score(given: Tensor) -> tuple[Tensor, None]:
        # Put so that its difference from the image is the distance.
        rebuilt = given - (given - mean.to(given)) / sd.to(given)
        return anomaly_score(given, rebuilt, foreground_threshold=foreground_threshold), None

    return score


def learned_rivals(images: Sequence[Tensor], foreground_threshold: float = THRESHOLD) -> Mapping[str, Scorer]:
    """Returns name -> scorer of the rivals that learn from healthy images; none from fewer than two.

    Args:
        images: Healthy images ``(C, H, W[, D])``, all of one size. Of more than :data:`MOST_IMAGES`, every second is
            taken, or every third, and so on.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
    """
    if len(images) < 2:
        return {}
    stacked = torch.stack(list(images[:: math.ceil(len(images) / MOST_IMAGES)]))
    return {name: make(stacked, foreground_threshold) for name, make in (("pca", pca_scorer), ("atlas", atlas_scorer))}
