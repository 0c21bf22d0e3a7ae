"""Draws boxes, anywhere in an image or around a voxel of a class, for copy-paste."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .draws import uniform


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


def box_masks(shape: Sequence[int], sides: Sequence[int] | Tensor, corners: Tensor) -> Tensor:
    """Returns boxes as masks, ``(number, 1, *shape)`` bool, on the device of the corners.

    Args:
        shape: Extent of the image along each axis, in voxels.
        sides: Extent of the boxes along each axis, in voxels; ``(number, axes)`` where boxes differ.
        corners: First voxel of each box, ``(number, axes)``.

    Example:
        >>> box_masks([4], [2], torch.tensor([[1]]))
        tensor([[[False,  True,  True, False]]])
    """
    masks = torch.ones(len(corners), 1, *shape, dtype=torch.bool, device=corners.device)
    by_image = (-1, *[1] * (len(shape) + 1))
    for axis, extent in enumerate(shape):
        start = corners[:, axis].reshape(by_image)
        # Sides that are the same for all stay numbers: a tensor made of them would have to be sent to the device.
        side = sides[:, axis].reshape(by_image) if isinstance(sides, Tensor) else sides[axis]
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


def boxes_around(
    label: Tensor,
    classes: Tensor,
    share: float,
    *,
    spread: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns a box around a voxel of one class for each image, a bool of the shape of ``label``.

    All voxels of the class are equally likely as the middle; a box that would leave the image is moved inside. Nothing
    waits for the device.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``.
        classes: Class of each image, ``(B,)``, one that it holds.
        share: Mean share of each side of the image that a box has, above 0; at least a voxel, at most the image.
        spread: Range of that share, as a part of it, in [0, 1]: 0.5, the default, draws from half to one and a half
            times ``share``, the same for all axes of an image.
        generator: Generator of the draws; one on the CPU draws the same for every device. With ``None``, the default,
            torch's own.
    """
    shape = label.shape[2:]
    numbers = uniform((len(label),), label.device, generator)
    lots = uniform((len(label), label[0].numel()), label.device, generator)
    flat = label.flatten(1) == classes.reshape(-1, 1)
    middles = torch.unravel_index(torch.where(flat, lots, -1.0).argmax(dim=1), shape)
    part = share * (1 + spread * (2 * numbers - 1))
    sides = [(part * extent).round().long().clamp(1, extent) for extent in shape]
    corners = [
        (middle - side // 2).clamp(min=0).minimum(extent - side)
        for middle, side, extent in zip(middles, sides, shape, strict=True)
    ]
    return box_masks(shape, torch.stack(sides, dim=1), torch.stack(corners, dim=1))
