"""Removes small connected components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label


def remove_small_components(mask: NDArray[np.bool_], min_size: int) -> NDArray[np.bool_]:
    """Returns a mask without its connected components of fewer voxels than ``min_size``.

    Args:
        mask: Mask of any number of axes; voxels that share a corner are connected.
        min_size: Size of the smallest component that stays, in voxels; 0 and 1 keep all.

    Example:
        >>> remove_small_components(np.array([1, 1, 0, 1], dtype=bool), 2).astype(int)
        array([1, 1, 0, 0])
    """
    if min_size <= 1:
        return mask
    numbers, _ = label(mask, structure=generate_binary_structure(mask.ndim, mask.ndim))
    keep = np.bincount(numbers.ravel()) >= min_size
    keep[0] = False
    return np.asarray(keep[numbers])
