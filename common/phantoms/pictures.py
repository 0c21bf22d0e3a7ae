"""Makes phantom pictures: small labeled color images that look like stained tissue, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PictureTask:
    """A made-up data set of color pictures.

    Args:
        tissue: Color of the surroundings: red, green and blue from 0 to 255.
        cells: Color of the cells, red, green and blue from 0 to 255; those of label 2 are small and darker.
        long: Factor by which cells are longer than wide.
        seed: Seed of the data set, which makes the data sets differ.
        size: Mean number of pixels along each axis, 144 by default; every picture differs by up to 24.
        number: Fewest and most cells of each label, the latter exclusive; 8 to 13 large and 6 to 11 small ones by
            default.
        absent: Chance that a picture shows no cell of a label, in [0, 1], drawn for each; 0 by default. Every picture
            shows one of them.
        labels: Labels that count, of 1 for large cells and 2 for small ones, both by default; other cells belong to the
            background.
    """

    tissue: tuple[int, int, int]
    cells: tuple[int, int, int]
    long: float
    seed: int
    size: int = 144
    number: tuple[tuple[int, int], tuple[int, int]] = ((8, 14), (6, 12))
    absent: float = 0.0
    labels: tuple[int, ...] = (1, 2)


PICTURE_TASKS: dict[str, PictureTask] = {
    "cells_rgb": PictureTask((235, 190, 215), (120, 80, 160), 1.4, 11, labels=(1,)),
    "fibers_rgb": PictureTask((235, 190, 215), (120, 80, 160), 9.0, 12, labels=(1,)),
    "brown_cells_rgb": PictureTask((225, 225, 235), (120, 75, 40), 1.4, 13, labels=(1,)),
}
"""The first is for training; the others serve as out-of-distribution pictures: other shapes, another stain.

Small cells are background that looks like foreground, from which a network is to learn.
"""

FRAME_TASKS: dict[str, PictureTask] = {
    "tools_rgb": PictureTask((185, 85, 75), (150, 155, 165), 5.0, 21, number=((1, 3), (2, 5)), absent=0.4),
    "drape_rgb": PictureTask((70, 130, 140), (150, 155, 165), 5.0, 22, number=((1, 3), (2, 5)), absent=0.4),
    "bubbles_rgb": PictureTask((185, 85, 75), (235, 225, 215), 1.1, 23, number=((12, 20), (12, 20))),
}
"""Pictures a little like frames of an operation, of which not all show every label; the first is for training."""

LABELS = ("background", "large cell")
FRAME_LABELS = ("background", "large tool", "small tool")


def picture_phantom(task: PictureTask, index: int, *, seed: int = 0) -> tuple[Pixels, Pixels]:
    """Returns one phantom picture and its label.

    Beside the cells there are red discs and pale blurred stains, which belong to the background, as cells without a
    label do. They look like cells, so that a network has something to be confused by.

    Args:
        task: Data set of the picture.
        index: Number of the picture, at least 0.
        seed: Seed of the whole series; the same seed gives the same pictures. 0 by default.

    Returns:
        Picture ``(H, W, 3)`` and label ``(H, W)``, both uint8.
    """
    rng = np.random.default_rng([seed, task.seed, index])
    shape = tuple(int(size) for size in task.size + rng.integers(-24, 25, 2))
    tissue, cells = np.array(task.tissue, dtype=float), np.array(task.cells, dtype=float)
    cloud = gaussian_filter(rng.standard_normal(shape), 6.0)
    picture = tissue + (cloud / cloud.std() * 7)[..., None] * np.array([0.6, 1.0, 0.7])
    for _ in range(int(rng.integers(3, 6))):
        stain = gaussian_filter(_ellipse(shape, rng, rng.uniform(6, 12), 1.3).astype(float), 3.0)
        picture += stain[..., None] * (cells - tissue) * rng.uniform(0.4, 0.7)
    for _ in range(int(rng.integers(2, 5))):
        picture[_ellipse(shape, rng, rng.uniform(4, 7), 1.1)] = (205, 80, 90)
    label = np.zeros(shape, dtype=np.uint8)
    for kind, number, radius, shade in ((1, task.number[0], (6, 10), 1.0), (2, task.number[1], (3, 4.5), 0.6)):
        # Only where there is a chance, so that other tasks draw as they always did; no picture lacks both.
        absent = bool(task.absent) and rng.random() < task.absent and (kind == 1 or bool(label.any()))
        for _ in range(0 if absent else int(rng.integers(*number))):
            inside = _ellipse(shape, rng, rng.uniform(*radius), task.long)
            picture[inside] = shade * cells * rng.uniform(0.85, 1.15)
            label[inside] = kind if kind in task.labels else 0
    picture = gaussian_filter(picture, (0.7, 0.7, 0)) + rng.normal(0, 5, (*shape, 3))
    return picture.round().clip(0, 255).astype(np.uint8), label


def _ellipse(shape: tuple[int, ...], rng: np.random.Generator, radius: float, long: float) -> NDArray[np.bool_]:
    """An ellipse of about the area of a disc of that radius, anywhere, turned any way."""
    center, angle = rng.uniform(0, 1, 2) * shape, rng.uniform(0, np.pi)
    x, y = np.meshgrid(
        *(np.arange(extent) - middle for extent, middle in zip(shape, center, strict=True)), indexing="ij"
    )
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stretch = np.sqrt(long * rng.uniform(0.85, 1.15))
    return np.asarray((along / stretch) ** 2 + (across * stretch) ** 2 < radius**2)
