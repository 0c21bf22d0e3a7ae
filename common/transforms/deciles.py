"""Aligns intensities of scans from several scanners, channel by channel, by their deciles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

LANDMARKS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Shares of the foreground's voxels below the landmarks: the deciles, and two robust ends (Nyul et al. 2000)."""


def landmarks(image: Tensor, shares: Sequence[float] = LANDMARKS) -> Tensor:
    """Returns the quantiles of each channel's foreground, which is what differs from the channel's minimum.

    Args:
        image: ``(C, H, W[, D])``, float.
        shares: Shares in [0, 1], rising.

    Returns:
        ``(C, L)``, rising along the last axis; zeros for a channel without foreground.
    """
    found = []
    for channel in image.flatten(1):
        foreground = channel[channel > channel.min()]
        quantiles = torch.tensor(shares, dtype=channel.dtype, device=channel.device)
        found.append(_quantile(foreground, quantiles) if foreground.numel() else torch.zeros_like(quantiles))
    return torch.stack(found)


def _quantile(values: Tensor, shares: Tensor) -> Tensor:
    """Linearly interpolated quantiles; ``torch.quantile`` refuses more than 16 million values."""
    # On the CPU, numpy sorts ten to a hundred times as fast as torch.
    ordered = torch.from_numpy(np.sort(values.cpu().numpy())).to(values.device)
    place = shares.double() * (len(ordered) - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], (place - low).to(ordered.dtype))


def standard_landmarks(measured: Iterable[Tensor]) -> Tensor:
    """Returns the standard scale of a training set: mean landmarks, after each image's span is scaled to 0 to 1.

    Nyul, Udupa and Zhang, *New variants of a method of MRI scale standardization*, IEEE Trans. Med. Imaging 19(2),
    2000.

    Args:
        measured: Landmarks ``(C, L)`` of each image or patient, all with the same channels; at least one.

    Returns:
        ``(C, L)`` float64 from 0 to 1, rising.

    Raises:
        ConfigError: when there is no image, channels differ, or no image has foreground in a channel.
    """
    scaled = []
    for found in map(Tensor.double, measured):
        span = (found[:, -1:] - found[:, :1]).clamp_min(torch.finfo(found.dtype).tiny)
        scaled.append(torch.where(found[:, -1:] > found[:, :1], (found - found[:, :1]) / span, torch.nan))
    if not scaled:
        raise ConfigError("no image to learn the scale of intensities from; give at least one training case of MR")
    if len({len(found) for found in scaled}) > 1:
        raise ConfigError("training images differ in their number of channels, so they share no scale of intensities")
    standard = torch.stack(scaled).nanmean(dim=0)
    if standard.isnan().any():
        raise ConfigError("a channel has no foreground in any image, so it has no scale of intensities; leave it out")
    return standard


def match_landmarks(image: Tensor, standard: Tensor, found: Tensor | None = None) -> Tensor:
    """Returns an image whose landmarks are those of the standard scale, linear in between and beyond.

    Args:
        image: ``(C, H, W[, D])``, float.
        standard: ``(C, L)``, see :func:`standard_landmarks`.
        found: Landmarks ``(C, L)`` of the patient that the image shows; ``None``, the default, for the image's own.

    Returns:
        The same shape; a channel without foreground is 0 throughout.
    """
    matched = []
    for channel, source, target in zip(
        image, landmarks(image) if found is None else found, standard.to(image), strict=True
    ):
        # Equal landmarks, as in images of few gray levels, would divide by zero.
        keep = torch.cat([torch.ones(1, dtype=torch.bool, device=source.device), source.diff() > 0])
        if int(keep.sum()) < 2:
            matched.append(torch.zeros_like(channel))
            continue
        x, y = source[keep], target[keep]
        slope = y.diff() / x.diff()
        index = (torch.searchsorted(x, channel.contiguous()) - 1).clamp(0, len(slope) - 1)
        matched.append(y[index] + (channel - x[index]) * slope[index])
    return torch.stack(matched)
