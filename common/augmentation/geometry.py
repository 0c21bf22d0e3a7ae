"""Moves whole batches of images and labels: flips, rotation, scaling and translation in one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def rotation_planes(spatial_dims: int) -> list[tuple[int, int]]:
    """Returns the axes of the plane of each rotation: one in 2-D, one about each axis in 3-D."""
    return [(0, 1)] if spatial_dims == 2 else [(1, 2), (2, 0), (0, 1)]


def rotation_matrix(angles: Tensor, spatial_dims: int) -> Tensor:
    """Returns rotations in a right-handed system of axes.

    Args:
        angles: Angles in radians: ``(B, 1)`` in 2-D, from the first axis to the second; ``(B, 3)`` in 3-D, about the
            first, the second and the third axis, applied in this order.
        spatial_dims: 2 or 3.

    Returns:
        ``(B, D, D)``, orthogonal, determinant 1.

    Example:
        >>> rotation_matrix(torch.tensor([[math.pi / 2]]), 2)[0].int().tolist()
        [[0, -1], [1, 0]]
    """
    cosine, sine = angles.cos(), angles.sin()
    total = torch.eye(spatial_dims, dtype=angles.dtype, device=angles.device).repeat(len(angles), 1, 1)
    for index, (first, second) in enumerate(rotation_planes(spatial_dims)):
        turn = torch.eye(spatial_dims, dtype=angles.dtype, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, first, first] = turn[:, second, second] = cosine[:, index]
        turn[:, first, second], turn[:, second, first] = -sine[:, index], sine[:, index]
        total = turn @ total
    return total


def normalized_matrix(matrix: Tensor, translation: Tensor, size: Sequence[int]) -> Tensor:
    """Returns voxel coordinates' affine maps in the form that torch's ``affine_grid`` takes.

    Args:
        matrix: ``(B, D, D)``; takes voxel coordinates of the output, counted from the center of the image, to those of
            the input.
        translation: ``(B, D)``, added to them, in voxels.
        size: Voxels of the image along each axis.

    Returns:
        ``(B, D, D + 1)`` for coordinates from -1 to 1, the last axis first, as torch has them.
    """
    half = torch.tensor([extent / 2 for extent in size], dtype=matrix.dtype, device=matrix.device)
    linear = matrix * (half[None, None, :] / half[None, :, None])
    theta = torch.cat([linear, (translation / half)[..., None]], dim=2)
    theta[:, :, :-1] = theta[:, :, :-1].flip(1, 2)
    theta[:, :, -1] = theta[:, :, -1].flip(1)
    return theta


def resample(images: Tensor, theta: Tensor, *, mode: str = "bilinear", padding_mode: str = "border") -> Tensor:
    """Returns a batch resampled by one affine map for each image.

    Args:
        images: ``(B, C, H, W[, D])``, of any dtype.
        theta: ``(B, D, D + 1)``, see :func:`normalized_matrix`.
        mode: ``"bilinear"`` (also in 3-D) for images, ``"nearest"`` for labels.
        padding_mode: ``"border"`` repeats the outermost voxels, ``"zeros"`` fills with 0.

    Returns:
        The same shape and dtype.
    """
    values = images if images.is_floating_point() else images.float()
    grid = affine_grid(theta.to(values.dtype), list(values.shape), align_corners=False)
    moved = grid_sample(values, grid, mode=mode, padding_mode=padding_mode, align_corners=False)
    return moved if images.is_floating_point() else moved.round().to(images.dtype)


def quarter_turn_angles(turns: Tensor) -> Tensor:
    """Returns angles in radians for numbers of quarter turns."""
    return turns * (math.pi / 2)
