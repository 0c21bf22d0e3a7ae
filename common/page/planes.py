"""Cuts a scan and its segmentation along the three planes that show most of what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Plane = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""A picture ``(H, W, 3)`` and the classes at its pixels ``(H, W)``, both with the first row on top."""

WINDOW = (0.5, 99.5)
"""Percentiles of the shown values that become black and white."""


def cut_planes(image: Tensor, segmentation: Tensor | None, *, size: int = 256) -> list[Plane]:
    """Returns a volume in three planes, sagittal, coronal and axial, or a picture as its only plane.

    Planes lie where most foreground is, and in the middle without any. All have one scale in mm.

    Args:
        image: Image ``(C, H, W[, D])``, with an affine if it has one; a volume's axes point right, anterior, superior.
            The first channel is shown, or all three of a color picture.
        segmentation: Class indices, ``(1, H, W[, D])`` or without the first axis, above 0 in the foreground. Its grid
            may differ from the image's where both have affines; else both show the same field of view. ``None`` where
            there is none.
        size: Number of pixels of the longest side. Default 256.
    """
    grid = tuple(image.shape[1:])
    classes = None if segmentation is None else segmentation.reshape(segmentation.shape[-len(grid) :])
    to_classes = _matrix(image, classes, len(grid))
    place = _telling_place(classes, to_classes, grid)
    spacing = _spacing(image, len(grid))
    extent = np.asarray(grid) * spacing
    shown = np.maximum(1, np.round(extent * size / extent.max())).astype(int)
    colors = len(grid) == 2 and len(image) == 3
    normals = (0, 1, 2) if len(grid) == 3 else (None,)
    slices = [_slice(image if colors else image[:1], normal, place) for normal in normals]
    low, high = _window(slices, colors)
    planes = []
    for normal, values in zip(normals, slices, strict=True):
        width, height = (int(shown[axis]) for axis in range(len(grid)) if axis != normal)
        gray = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        picture = Image.fromarray(gray if colors else gray[..., 0])
        found = _sample(classes, to_classes, (width, height), normal, place, grid)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR).convert("RGB"))
        # A volume's second axis points upwards, as in radiology, a color picture's downwards.
        planes.append((pixels, found) if colors else (pixels[::-1], found[::-1]))
    return planes


def _slice(image: Tensor, normal: int | None, place: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values ``(H, W, C)`` of one plane, its first axis to the right."""
    chosen = image if normal is None else image.select(normal + 1, int(place[normal]))
    values = np.asarray(chosen.detach().cpu().float(), dtype=np.float32)
    return np.nan_to_num(values.transpose(2, 1, 0))


def _window(slices: list[NDArray[np.float32]], colors: bool) -> tuple[float, float]:
    """The values that become black and white."""
    values = np.concatenate([part.ravel() for part in slices])
    if colors:
        return min(0.0, float(values.min())), max(1.0, float(values.max()))
    low, high = np.percentile(values, WINDOW)
    return float(low), float(high)


def _affine(tensor: Any, axes: int) -> NDArray[np.float64]:
    """The affine of the spatial axes alone, ``(axes + 1, axes + 1)``; the identity where there is none."""
    found = np.eye(axes + 1)
    given = getattr(tensor, "affine", None)
    if given is not None:
        whole = np.asarray(given.cpu(), dtype=np.float64)
        found[:axes, :axes], found[:axes, -1] = whole[:axes, :axes], whole[:axes, -1]
    return found


def _spacing(image: Tensor, axes: int) -> NDArray[np.float64]:
    """Size of a voxel along each axis, in mm."""
    spacing = np.sqrt((_affine(image, axes)[:axes, :axes] ** 2).sum(axis=0))
    return spacing if spacing.min() > 0 else np.ones(axes)


def _matrix(image: Tensor, classes: Tensor | None, axes: int) -> NDArray[np.float64]:
    """Leads from voxels of the image to those of the segmentation."""
    if classes is None:
        return np.eye(axes + 1)
    target = _affine(classes, axes)
    placed = all(getattr(tensor, "affine", None) is not None for tensor in (image, classes))
    if placed and np.linalg.matrix_rank(target) == axes + 1 and np.linalg.matrix_rank(_affine(image, axes)) == axes + 1:
        return np.asarray(np.linalg.solve(target, _affine(image, axes)), dtype=np.float64)
    # Without both affines, or with those of slices, which may lie in another plane: both show the same field of view.
    shares = np.asarray(classes.shape) / np.asarray(image.shape[1:])
    return np.diag([*shares, 1.0])


def _telling_place(
    classes: Tensor | None, to_classes: NDArray[np.float64], grid: tuple[int, ...]
) -> NDArray[np.float64]:
    """The voxel of the image in which the planes with most foreground meet."""
    middle = (np.asarray(grid, dtype=np.float64) - 1) // 2
    if classes is None or len(grid) == 2:
        return middle
    areas = _areas(np.asarray(classes.cpu()))
    if not areas[0].any():
        return middle
    telling = np.asarray([int(area.argmax()) for area in areas] + [1.0])
    return np.clip(np.round(np.linalg.solve(to_classes, telling)[:-1]), 0, np.asarray(grid) - 1)


def _areas(classes: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Foreground of every plane across each axis; slab by slab, as sums over a whole volume take seconds."""
    counts = np.zeros(classes.shape[1:], dtype=np.int64)
    first = np.zeros(len(classes), dtype=np.int64)
    for index, slab in enumerate(classes):
        foreground = slab > 0
        first[index] = np.count_nonzero(foreground)
        if first[index]:
            counts += foreground
    return [first, counts.sum(axis=1), counts.sum(axis=0)]


def _sample(
    classes: Tensor | None,
    to_classes: NDArray[np.float64],
    shown: tuple[int, int],
    normal: int | None,
    place: NDArray[np.float64],
    grid: tuple[int, ...],
) -> NDArray[np.uint8]:
    """Classes at the pixels of one plane, ``(H, W)``; 0 outside of the segmentation."""
    width, height = shown
    if classes is None:
        return np.zeros((height, width), dtype=np.uint8)
    first, second = (axis for axis in range(len(grid)) if axis != normal)
    columns = (np.arange(width) + 0.5) / width * grid[first] - 0.5
    rows = (np.arange(height) + 0.5) / height * grid[second] - 0.5
    # A sum in place of a product of matrices, for which libraries start threads.
    fixed = np.append(place, 1.0)
    fixed[[first, second]] = 0
    start = (to_classes[:-1] * fixed).sum(axis=1).reshape(-1, 1, 1)
    steps = to_classes[:-1, [first, second]].T[..., None, None]
    # Half a voxel more, as numbers above 0 are then rounded by cutting their digits off, which is faster.
    places = (start + 0.5 + steps[0] * columns).astype(np.float32) + (steps[1] * rows[:, None]).astype(np.float32)
    limits = np.asarray(classes.shape, dtype=np.float32).reshape(-1, 1, 1)
    inside = ((places >= 0) & (places < limits)).all(axis=0)
    voxels = np.where(inside, places, 0).astype(np.int32)
    values = np.asarray(classes.cpu())[tuple(voxels)]
    return np.where(inside, values, 0).astype(np.uint8)
