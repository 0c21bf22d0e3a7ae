"""Draws boxes of a fixed share of an image, for copy-paste."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mixing import uniform


def draw_corners(
    shape: Sequence[int], sides: Sequence[int], number: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Returns the first voxels of boxes that lie inside an image, all places equally likely, ``(number, axes)`` int64.

    Args:
        shape: Extent of the image along each axis, in voxels.
        sides: Extent of the boxes along each axis, in voxels, at most those of the image.
        number: Number of boxes.
        generator: Generator of the draw, on the CPU. With ``None``, the default, torch's own.
    """
    places = torch.tensor([whole - side + 1 for whole, side in zip(shape, sides, strict=True)])
    numbers = uniform((number, len(places)), torch.device("cpu"), generator)
    return (numbers * places).long()


def box_masks(shape: Sequence[int], sides: Sequence[int], corners: Tensor) -> Tensor:
    """Returns boxes as masks, ``(number, 1, *shape)`` bool, on the device of the corners.

    Args:
        shape: Extent of the image along each axis, in voxels.
        sides: Extent of the boxes along each axis, in voxels.
        corners: First voxel of each box, ``(number, axes)``.

    Example:
        >>> box_masks([4], [2], torch.tensor([[1]]))
        tensor([[[False,  True,  True, False]]])
    """
    masks = torch.ones(len(corners), 1, *shape, dtype=torch.bool, device=corners.device)
    for axis, (extent, side) in enumerate(zip(shape, sides, strict=True)):
        start = corners[:, axis].reshape(-1, *[1] * (len(shape) + 1))
        place = torch.arange(extent, device=corners.device).reshape(-1, *[1] * (len(shape) - 1 - axis))
        masks &= (place >= start) & (place < start + side)
    return masks


def random_boxes_of_share(label: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Returns a box for each image whose sides are a share of the image's, a bool of the shape of ``label``.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``; only their shape and device count.
        share: Share of each side, above 0, at most 1; rounded down to voxels, at least one.
        generator: Generator of the draw, on the CPU. With ``None``, the default, torch's own.
    """
    shape = label.shape[2:]
    sides = [max(1, int(extent * share + 1e-6)) for extent in shape]
    corners = draw_corners(shape, sides, len(label), generator=generator)
    return box_masks(shape, sides, corners.to(label.device, non_blocking=True))
