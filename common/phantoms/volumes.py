"""Makes phantom scans: small labeled images of several made-up organs and modalities, the same for the same seed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..errors import ConfigError
from .brains import BRAIN_CHANNELS, BRAIN_LABELS, BRAIN_TASKS, brain_slice
from .pictures import FRAME_LABELS, FRAME_TASKS, LABELS, PICTURE_TASKS, picture_phantom

Array = NDArray[np.float32]
Modality = Literal["CT", "MR"]


@dataclass(frozen=True)
class PhantomTask:
    """A made-up data set.

    Args:
        modality: ``CT`` (Hounsfield units) or ``MR`` (arbitrary units, bias field, noise).
        shape: Form of the organ: ``ellipsoid``, ``ring``, ``tube``, ``pair`` or ``bud``. A ``pair`` has two touching
            parts of equal size, labels 1 and 2. A ``bud`` has a large part, label 1, and one of a tenth of its size,
            label 2.
        size: Mean number of voxels along each axis; every scan differs by up to 4.
        contrast: Intensity of the organ against its surroundings, in units of the noise.
        seed: Seed of the data set, which makes the data sets differ.
        second: Contrast of label 2, as a multiple of that of label 1; 1 by default.
    """

    modality: Modality
    shape: Literal["bud", "ellipsoid", "pair", "ring", "tube"]
    size: int
    contrast: float
    seed: int
    second: float = 1.0


TASKS: dict[str, PhantomTask] = {
    "pair_mr": PhantomTask("MR", "pair", 32, 4.0, 1),
    "ellipsoid_ct": PhantomTask("CT", "ellipsoid", 36, 6.0, 2),
    "ring_mr": PhantomTask("MR", "ring", 40, 8.0, 3),
    "tube_ct": PhantomTask("CT", "tube", 40, 12.0, 4),
}
PHANTOM_TASKS = ("pair_mr", "ellipsoid_ct")
"""Tasks that training uses; the others serve as out-of-distribution scans."""

IMBALANCED_TASKS: dict[str, PhantomTask] = {"bud_mr": PhantomTask("MR", "bud", 32, 4.0, 5, second=1.8)}
"""Tasks of several classes of unequal size, for bundles that name them."""


def ood_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Returns the tasks whose phantoms are out-of-distribution where those of ``tasks`` are trained on."""
    for kind in (PICTURE_TASKS, FRAME_TASKS, BRAIN_TASKS):
        if any(task in kind for task in tasks):
            return tuple(task for task in kind if task not in tasks)
    return tuple(task for task in TASKS if task not in PHANTOM_TASKS)


def phantom_scan(task: str, index: int, *, spatial_dims: int = 3, seed: int = 0) -> tuple[Array, NDArray[np.uint8]]:
    """Returns one phantom image and its label.

    Args:
        task: Name of the data set, one of ``TASKS`` or ``IMBALANCED_TASKS``.
        index: Number of the scan, at least 0.
        spatial_dims: Number of spatial axes, 2 or 3; 3 by default.
        seed: Seed of the whole series; the same seed gives the same scans. 0 by default.

    Returns:
        Image, float32, and label, uint8, of equal shape ``(H, W[, D])``; spacing 1 mm.

    Raises:
        ConfigError: When there is no such task.
    """
    known = TASKS | IMBALANCED_TASKS
    if task not in known:
        raise ConfigError(f"phantom task {task!r} does not exist; accepted are {', '.join(known)}")
    kind = known[task]
    rng = np.random.default_rng([seed, kind.seed, index, spatial_dims])
    size = tuple(int(n) for n in kind.size + rng.integers(-4, 5, spatial_dims))
    # Coordinates from -1 to 1, moved a little, so that the organ is not always in the middle.
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij"))
    grid = grid - rng.uniform(-0.15, 0.15, (spatial_dims, *[1] * spatial_dims))
    label = _SHAPES[kind.shape](grid, rng.uniform(0.85, 1.15, spatial_dims)).astype(np.uint8)
    texture = gaussian_filter(rng.standard_normal(size), 1.0) * 2
    contrasts = np.array([0.0, kind.contrast, kind.contrast * kind.second])
    signal = contrasts[label] + texture + rng.standard_normal(size) * 0.5
    body = (grid**2).sum(axis=0) < 1.6
    if kind.modality == "CT":
        return np.where(body, 40 + 15 * signal, -1000 + 5 * texture).astype(np.float32), label
    bias = 1 + 0.3 * np.tanh(np.tensordot(rng.uniform(-1, 1, spatial_dims), grid, axes=1))
    scale = 10 ** rng.uniform(1, 3)
    return (np.abs(body * (6 + signal) * bias + 0.2 * rng.standard_normal(size)) * scale).astype(np.float32), label


def phantom_dataset(root: str | Path, task: str, num_cases: int, *, spatial_dims: int = 3, seed: int = 0) -> Path:
    """Writes a Decathlon folder of phantoms, unless an equal one is there already, and returns it.

    Args:
        root: Folder in which the folder ``<task>_<dims>d_<number>_<seed>`` is made.
        task: Name of the data set: one of ``TASKS`` or ``IMBALANCED_TASKS``; for color pictures, of ``PICTURE_TASKS``
            or ``FRAME_TASKS``; for slices of several channels, of ``BRAIN_TASKS``.
        num_cases: Number of scans, or of patients of several slices each.
        spatial_dims: Number of spatial axes, 2 or 3; 3 by default.
        seed: Seed of the whole series; the same seed gives the same data set. 0 by default.
    """
    folder = Path(root) / f"{task}_{spatial_dims}d_{num_cases}_{seed}" / task
    if (folder / "dataset.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _write_dataset(temporary, task, num_cases, spatial_dims, seed)
        temporary.rename(folder)
    except OSError:
        # Another process may have been faster; its files are the same.
        if not (folder / "dataset.json").is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_dataset(folder: Path, task: str, num_cases: int, spatial_dims: int, seed: int) -> None:
    """Writes images, labels and ``dataset.json``."""
    if task in BRAIN_TASKS:
        _write_brains(folder, task, num_cases, seed)
        return
    picture = (PICTURE_TASKS | FRAME_TASKS).get(task)
    parts, suffix = (("images", "masks"), ".png") if picture else (("imagesTr", "labelsTr"), ".nii.gz")
    items = []
    for part in parts:
        (folder / part).mkdir()
    for index in range(num_cases):
        name = f"{task}_{index:03d}{suffix}"
        if picture:
            for part, pixels in zip(parts, picture_phantom(picture, index, seed=seed), strict=True):
                Image.fromarray(pixels).save(folder / part / name)
        else:
            for part, scan in zip(parts, phantom_scan(task, index, spatial_dims=spatial_dims, seed=seed), strict=True):
                nib.save(nib.Nifti1Image(scan, np.eye(4)), folder / part / name)
        items.append({"image": f"./{parts[0]}/{name}", "label": f"./{parts[1]}/{name}"})
    modality, values = ("RGB", FRAME_LABELS if task in FRAME_TASKS else LABELS) if picture else _describe_volumes(task)
    _write_listing(folder, task, (modality,), values, items)


def _write_brains(folder: Path, task: str, num_patients: int, seed: int) -> None:
    """Writes the slices of every patient, and ``dataset.json``, which says what belongs together."""
    items = []
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for patient, number in product(range(num_patients), range(BRAIN_TASKS[task].slices)):
        name = f"{task}_{patient:03d}_s{number:02d}.png"
        for part, pixels in zip(("images", "masks"), brain_slice(task, patient, number, seed=seed), strict=True):
            Image.fromarray(pixels).save(folder / part / name)
        item = {"image": f"./images/{name}", "label": f"./masks/{name}"}
        items.append(item | {"patient": f"{task}_{patient:03d}", "slice": number})
    _write_listing(folder, task, BRAIN_CHANNELS, BRAIN_LABELS, items)


def _write_listing(
    folder: Path, task: str, channels: Sequence[str], labels: Sequence[str], items: Sequence[dict[str, Any]]
) -> None:
    """Writes ``dataset.json``."""
    description = {
        "name": task,
        "description": "phantom scans, made by a program",
        "modality": {str(index): text for index, text in enumerate(channels)},
        "labels": {str(value): text for value, text in enumerate(labels)},
        "numTraining": len(items),
        "training": list(items),
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def _describe_volumes(task: str) -> tuple[str, tuple[str, ...]]:
    """Modality and names of the labels of a task of scans."""
    kind = (TASKS | IMBALANCED_TASKS)[task]
    return kind.modality, ("background", *_PARTS.get(kind.shape, ("organ",)))


def _radius(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the center, each axis scaled."""
    return np.asarray(np.sqrt(((grid / axes.reshape(-1, *[1] * (grid.ndim - 1))) ** 2).sum(axis=0)))


def _ellipsoid(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    return (_radius(grid, axes) < 0.5).astype(np.int64)


def _pair(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    inside = _ellipsoid(grid, axes * np.array([1.3, *[0.8] * (len(axes) - 1)]))
    return inside * (1 + (grid[0] > 0))


def _bud(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    place = np.array([0.5, *[0.3] * (len(axes) - 1)]).reshape(-1, *[1] * len(axes))
    return np.where(_radius(grid - place, axes) < 0.23, 2, _ellipsoid(grid, axes))


def _ring(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    return (np.abs(_radius(grid, axes) - 0.55) < 0.12).astype(np.int64)


def _tube(grid: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    center = 0.3 * np.sin(3 * grid[0])
    return (np.sqrt((grid[1] - center) ** 2 + (grid[2:] ** 2).sum(axis=0)) < 0.3 * axes[0]).astype(np.int64)


_SHAPES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.int64]]] = {
    "bud": _bud,
    "ellipsoid": _ellipsoid,
    "pair": _pair,
    "ring": _ring,
    "tube": _tube,
}

_PARTS = {"bud": ("organ", "bud"), "pair": ("first part", "second part")}
"""Names of the labels where they are several."""
