"""Describes a segmentation by how large its classes are and where they lie to one another."""

from __future__ import annotations

import torch
from torch import Tensor

from .pseudo_layers import finite_output

CHUNK = 2**20
"""Voxels counted at once, or those of one slice, so that memory does not grow with the image."""

VOXEL = 1 / 12
"""Variance of the places within one voxel: an object of one voxel has an extent, too."""


def layout_signature(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Returns numbers of a segmentation that change where organs are mirrored, missing, displaced or misshapen.

    Spectra of feature maps hardly know where in an image something lies; this does. Ours, not the paper's. No number
    depends on the field of view, and all lengths are in parts of the foreground's own along the same axis, so that the
    size of voxels matters for number and proportions alone.

    Args:
        logits: Logits of a whole image, ``(K, H, W[, D])``.
        sigmoid: Whether each channel is a class by itself, there where it is likelier than not; else class 0 is
            background. Default false.

    Returns:
        ``(1 + 2 A,)`` float64 on the CPU for ``A`` axes: logarithm of the number of foreground voxels, at least 1; for
        every axis logarithm of the foreground's standard deviation over the geometric mean of all axes; for every axis
        skewness of the foreground. With ``C`` classes of foreground, two or more, ``C (1 + A)`` follow: for every class
        the logarithm of its share of the foreground, and for every axis how far its center lies from the foreground's,
        in standard deviations of the foreground. A class that is not found counts as one voxel in the center, and a
        foreground that is not found as one voxel.

    Raises:
        FeatureError: When the logits are not finite.
    """
    logits = finite_output(logits)
    profiles = _profiles(logits, sigmoid)
    whole, classes = [profile[:1] for profile in profiles], [profile[1:] for profile in profiles]
    voxels = whole[0].sum().clamp_min(1.0)
    centers = [_center(profile) for profile in whole]
    spreads = [(_moment(profile, 2) + VOXEL).sqrt() for profile in whole]
    extents = torch.cat(spreads).log()
    skews = [_moment(profile, 3) / spread**3 for profile, spread in zip(whole, spreads, strict=True)]
    numbers = [voxels.log().reshape(1), extents - extents.mean(), *skews]
    if len(classes[0]) > 1:
        numbers.append((classes[0].sum(dim=1).clamp_min(1.0) / voxels).log())
        for profile, center, spread in zip(classes, centers, spreads, strict=True):
            numbers.append(torch.where(profile.sum(dim=1) > 0, (_center(profile) - center) / spread, 0.0))
    return torch.cat(numbers)


def _profiles(logits: Tensor, sigmoid: bool) -> list[Tensor]:
    """Voxels of the foreground, and of every class of it, at each place of each axis: ``(1 + C, size)`` float64."""
    axes, in_slice = logits.ndim - 1, logits.shape[2:].numel()
    profiles: list[list[Tensor]] = [[] for _ in range(axes)]
    for part in logits.split(max(1, CHUNK // max(1, in_slice)), dim=1):
        classes = part > 0 if sigmoid else _one_hot(part.argmax(dim=0), len(part))
        found = torch.cat([classes.any(dim=0, keepdim=True), classes])
        for axis, own in enumerate(profiles):
            own.append(found.sum(dim=[other for other in range(1, axes + 1) if other != axis + 1]))
    first, *others = profiles
    return [torch.cat(first, dim=1).double().cpu(), *(torch.stack(own).sum(dim=0).double().cpu() for own in others)]


def _one_hot(label: Tensor, num_classes: int) -> Tensor:
    """Masks ``(C, *)`` of the classes of a label map ``(*)`` other than background, class 0."""
    numbers = torch.arange(1, num_classes, device=label.device)
    return label == numbers.reshape(-1, *[1] * label.ndim)


def _center(profile: Tensor) -> Tensor:
    """Mean place of the voxels of profiles ``(C, size)``, ``(C,)``; the middle where there is none."""
    places = torch.arange(profile.shape[1], dtype=profile.dtype)
    middle = (profile.shape[1] - 1) / 2
    total = profile.sum(dim=1)
    return torch.where(total > 0, (profile @ places) / total.clamp_min(1.0), middle)


def _moment(profile: Tensor, order: int) -> Tensor:
    """Central moment of the places of the voxels of profiles ``(C, size)``, ``(C,)``."""
    away = torch.arange(profile.shape[1], dtype=profile.dtype) - _center(profile)[:, None]
    return (profile * away**order).sum(dim=1) / profile.sum(dim=1).clamp_min(1.0)
