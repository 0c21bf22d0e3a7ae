"""Cuts images into patches side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad


def patch_starts(size: Sequence[int], roi_size: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the first voxels of the patches that cover an image side by side; the last ones need padding.

    Args:
        size: Voxels of the image along each axis.
        roi_size: Voxels of a patch along each axis.

    Example:
        >>> patch_starts((5, 4), (4, 4))
        [(0, 0), (4, 0)]
    """
    return list(product(*(range(0, extent, step) for extent, step in zip(size, roi_size, strict=True))))


def patch_place(start: Sequence[int], roi_size: Sequence[int]) -> tuple[slice, ...]:
    """Returns where a patch lies in an image with channels, as far as the image reaches."""
    return (slice(None), *(slice(first, first + extent) for first, extent in zip(start, roi_size, strict=True)))


def cut_patch(image: Tensor, start: Sequence[int], roi_size: Sequence[int]) -> Tensor:
    """Returns a patch of an image ``(C, H, W[, D])``, with zeros where it reaches beyond the image."""
    inside = image[patch_place(start, roi_size)]
    missing = [n - size for n, size in zip(roi_size, inside.shape[1:], strict=True)]
    if not any(missing):
        return inside
    return pad(inside, [edge for gap in reversed(missing) for edge in (0, gap)])


def padding_mask(size: Sequence[int], start: Sequence[int], roi_size: Sequence[int]) -> Tensor:
    """Returns the mask ``(1, *roi_size)`` of the pixels of a patch that lie outside its image.

    Args:
        size: Voxels of the image along each axis.
        start: Index of the patch's first voxel along each axis, from 0.
        roi_size: Voxels of the patch along each axis.
    """
    padding = torch.ones(1, *roi_size, dtype=torch.bool)
    inside = [slice(0, max(extent - first, 0)) for first, extent in zip(start, size, strict=True)]
    padding[(slice(None), *inside)] = False
    return padding
