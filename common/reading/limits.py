"""Checks what every reader demands of an image before its voxels are read: a sound place in space, a bearable size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ImageError

MAX_VOXELS = 500_000_000
"""Default of ``max_voxels``: 1,900 slices of 512 x 512. A run needs about 15 bytes of memory for each voxel."""

SPACING_RANGE = (1e-3, 1e3)
"""Smallest and largest distance between neighboring voxels, in mm, that an image of a body may have."""

MAX_OFFSET = 1e6
"""Farthest that the first voxel may lie from the origin, in mm; beyond it float32 does not resolve 0.1 mm."""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of voxels: neither the qform of NIfTI nor ITK can express shear."""


def check_affine(affine: ArrayLike, *, shear_tolerance: float = SHEAR_TOLERANCE) -> None:
    """Makes sure that an affine puts voxels into space: finite, invertible, plausible, without shear.

    Args:
        affine: Affine ``(n + 1, n + 1)`` from voxels to mm.
        shear_tolerance: Largest absolute cosine between two axes, in [0, 1); 0.001 by default.

    Raises:
        ImageError: When it does not. The message goes on after the name of the image.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise ImageError("has a geometry that is not finite (NaN or infinite); save it with a valid affine")
    axes, offset = matrix[:-1, :-1], matrix[:-1, -1]
    # Squares of 1e30 are still finite in float64, those of 1e300 are not, so the largest entry is judged first.
    low, high = SPACING_RANGE
    largest = float(np.abs(axes).max())
    spacing = np.linalg.norm(axes, axis=0) if largest <= high else np.abs(axes).max(axis=0)
    if spacing.min() < low or spacing.max() > high:
        text = " x ".join(f"{value:.4g}" for value in spacing)
        raise ImageError(
            f"has voxels of {text} mm; accepted are {low:g} to {high:g} mm along each axis: correct the geometry"
        )
    if np.abs(offset).max() > MAX_OFFSET:
        raise ImageError(
            f"lies {np.abs(offset).max():.4g} mm from the origin; accepted are up to {MAX_OFFSET:g} mm: correct the "
            "geometry"
        )
    cosines = np.abs((axes / spacing).T @ (axes / spacing) - np.eye(len(axes)))
    if cosines.max() > shear_tolerance:
        angle = 90 - math.degrees(math.acos(min(float(cosines.max()), 1.0)))
        raise ImageError(
            f"has axes that are not perpendicular, by {angle:.3g} degrees; resample it without shear, as by the tool "
            "that registered it"
        )


def check_size(shape: Sequence[int], max_voxels: int) -> None:
    """Makes sure that an image declares no more voxels than are accepted.

    Args:
        shape: Numbers of voxels that are declared along each axis, with axes of time and channels.
        max_voxels: Most voxels that are accepted, at least 1.

    Raises:
        ImageError: When an axis holds none, or all together too many. The message goes on after the image's name.
    """
    sizes = [int(size) for size in shape]
    text = " x ".join(map(str, sizes))
    if not sizes or min(sizes) < 1:
        raise ImageError(f"declares {text or 'no'} voxels; accepted is 1 and more along each axis: save it again")
    if math.prod(sizes) > max_voxels:
        raise ImageError(
            f"declares {text} voxels; accepted are {max_voxels} (max_voxels): crop it, or raise max_voxels if the "
            "memory suffices"
        )


def damaged(reason: str) -> ImageError:
    """Returns the error of a file that is not what was once written; its message goes on after the image's name.

    Args:
        reason: Text that says why, in plain words.
    """
    return ImageError(f"cannot be read ({reason}); it may be truncated: copy it again")


def plain_reason(error: BaseException) -> str:
    """Returns why a file could not be read, in words of ours: those of libraries name their own insides.

    Args:
        error: Error that a reader or a library raised.
    """
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "cannot be read (it does not exist); check its path"
    if isinstance(error, MemoryError):
        return "cannot be read (not enough memory); lower max_voxels to refuse such images early"
    return str(damaged((error.strerror if isinstance(error, OSError) else None) or "it holds no whole image"))
