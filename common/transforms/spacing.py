"""Resamples images and labels to the spacing of a setting, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Spacingd

from ..errors import ConfigError

KEEP = -1
"""Spacing that leaves an axis as it is, beside ``None``."""


def to_spacing(
    keys: KeysCollection,
    spacing: Sequence[float | None],
    spatial_dims: int,
    *,
    mode: str = "bilinear",
    allow_missing_keys: bool = False,
) -> Spacingd:
    """Returns the transform that resamples images to a spacing.

    Args:
        keys: Keys of images or labels.
        spacing: Size of voxels along each axis, in mm, above 0; -1 or ``None`` leaves an axis as it is, such as thick
            slices in ``[4.0, 4.0, -1]``.
        spatial_dims: Number of spatial axes, 2 or 3.
        mode: Interpolation, ``bilinear`` (also in 3-D) or ``nearest``. Default ``bilinear``.
        allow_missing_keys: Whether a case may lack a key, as unlabeled cases do. Default false.

    Raises:
        ConfigError: When ``spacing`` is not accepted.
    """
    sizes = list(spacing) if isinstance(spacing, Sequence) and not isinstance(spacing, str) else [spacing]
    if len(sizes) != spatial_dims or not all(map(_is_accepted, sizes)):
        raise ConfigError(
            f"spacing is {spacing!r}; accepted are {spatial_dims} sizes in mm above 0, one for each axis, or -1 for an "
            "axis that keeps its own"
        )
    pixdim = [float(KEEP if size is None else size) for size in sizes]
    return Spacingd(keys, pixdim, mode=mode, allow_missing_keys=allow_missing_keys)


def _is_accepted(size: Any) -> bool:
    """Whether a size is one in mm, or keeps an axis."""
    if size is None or size == KEEP:
        return True
    return isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < math.inf
