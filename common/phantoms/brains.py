"""Makes phantom brains: slices of three channels, some with lesions, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class BrainTask:
    """A made-up data set of slices.

    Args:
        tissues: Gray values, from 0 to 255, of skull, brain and ventricles, each in the three channels.
        lesion: Gray values that a lesion adds to each channel.
        seed: Seed of the data set, which makes the data sets differ.
        size: Mean number of pixels along each axis, 96 by default; every patient differs by up to 8.
        slices: Number of slices of each patient, 6 by default; the outer ones are without a lesion.
    """

    tissues: tuple[tuple[int, int, int], ...]
    lesion: tuple[int, int, int]
    seed: int
    size: int = 96
    slices: int = 6


BRAIN_TASKS: dict[str, BrainTask] = {
    "brains": BrainTask(((160, 120, 180), (100, 110, 95), (50, 40, 45)), (-25, 70, 20), 21),
    "inverted_brains": BrainTask(((40, 60, 30), (130, 60, 150), (220, 230, 210)), (-25, 70, 20), 22),
    "rough_brains": BrainTask(((160, 120, 180), (100, 110, 95), (50, 40, 45)), (-25, 70, 20), 23),
}
"""The first is for training; the others serve as out-of-distribution slices: another contrast, a coarse texture."""

BRAIN_LABELS = ("background", "lesion")
BRAIN_CHANNELS = ("MR, channel 1", "MR, channel 2", "MR, channel 3")


def brain_slice(name: str, patient: int, number: int, *, seed: int = 0) -> tuple[Pixels, Pixels]:
    """Returns one slice of a phantom brain and its label.

    Skull, brain and two ventricles; inner slices of a patient may show a lesion, which is bright in the second channel.

    Args:
        name: Name of the data set, one of ``BRAIN_TASKS``.
        patient: Number of the patient, at least 0.
        number: Number of the slice, from 0 to ``slices - 1``.
        seed: Seed of the whole series; the same seed gives the same slices. 0 by default.

    Returns:
        Picture ``(H, W, 3)`` and label ``(H, W)``, both uint8.
    """
    task = BRAIN_TASKS[name]
    rng = np.random.default_rng([seed, task.seed, patient])
    shape = tuple(int(n) for n in task.size + rng.integers(-8, 9, 2))
    center, width, gain = rng.uniform(-0.06, 0.06, 2), rng.uniform(0.72, 0.85, 2), rng.uniform(0.8, 1.2)
    place, radius = rng.uniform(0.25, 0.45), rng.uniform(0.1, 0.18)
    angle, lesioned = rng.uniform(0, 2 * np.pi), rng.choice(task.slices - 2, task.slices // 3, replace=False) + 1
    own = np.random.default_rng([seed, task.seed, patient, number])
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")) - center[:, None, None]
    # Slices away from the middle cut a smaller part of the head.
    middle = (number - (task.slices - 1) / 2) / task.slices
    radii = np.sqrt(((grid / (width * np.sqrt(1 - middle**2))[:, None, None]) ** 2).sum(axis=0))
    ventricle = [
        ((grid[0] - side * 0.16) / 0.08) ** 2 + (grid[1] / 0.25) ** 2 < 1 - 2 * abs(middle) for side in (-1, 1)
    ]
    picture = np.zeros((*shape, 3))
    for where, values in zip((radii < 1, radii < 0.86, ventricle[0] | ventricle[1]), task.tissues, strict=True):
        picture[where] = values
    label = np.zeros(shape, dtype=np.uint8)
    if number in lesioned:
        spot = grid - place * np.array([np.cos(angle), np.sin(angle)])[:, None, None] * width[:, None, None]
        label[((spot / (radius * own.uniform(0.8, 1.2, 2))[:, None, None]) ** 2).sum(axis=0) < 1] = 1
        picture += (gaussian_filter(label.astype(float), 1.0) * (radii < 0.86))[..., None] * np.array(task.lesion)
    grain = 2.5 if name == "rough_brains" else 0.8
    texture = gaussian_filter(own.standard_normal((*shape, 3)), (grain, grain, 0))
    strength = 30.0 if name == "rough_brains" else 5.0
    picture = gain * (gaussian_filter(picture, (0.8, 0.8, 0)) + strength * texture / texture.std())
    # Outside the head there is nothing, as after a removal of air.
    picture[radii >= 1.02] = 0
    return picture.round().clip(0, 255).astype(np.uint8), label * (radii < 0.86)
