"""Measures plain properties of a scan: geometry as its file states it; intensities, noise, sharpness as prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..transforms.modality import modality_of
from .distance import Array

QUANTILES = {"dark": 0.01, "median": 0.5, "bright": 0.99}
"""Quantiles of the intensities of a channel, by the name of the property."""

PLANES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}
"""Plane of slices that are stacked along a direction."""

MAX_VALUES = 2**14
"""Most voxels of a channel that quantiles are taken of, evenly spread."""

MAX_SIZE = {1: 4096, 2: 192, 3: 32}
"""Largest block, in voxels along each axis and by the number of axes, that noise and sharpness are measured in."""


@dataclass(frozen=True)
class ScanProperties:
    """Plain properties of one scan; nothing of a patient.

    Args:
        numbers: Name of a property -> its value; what a file does not tell is missing. Default none.
        plane: Plane of the slices, ``axial``, ``coronal`` or ``sagittal``; empty, the default, where there is none.
        modality: ``CT``, ``MR`` or ``RGB``; empty, the default, where nothing tells.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    plane: str = ""
    modality: str = ""


def measure_properties(image: Tensor, case: Mapping[Any, Any] | None = None) -> ScanProperties:
    """Returns the properties of a prepared image.

    ``spacing_<axis>`` and ``extent_<axis>`` in mm, and ``tilt`` in degrees, are those of the file before any
    resampling, along the axes right, front and up; of pictures, ``extent_<axis>`` in pixels alone. See
    :func:`measure_intensities` and :func:`measure_texture` for the others.

    Args:
        image: Image as the network takes it, ``(C, H, W[, D])``, with the metadata of its file where it has any.
        case: Case of the image, which may tell its ``modality``. Default none.
    """
    meta = getattr(image, "meta", {})
    plain = torch.as_tensor(image).detach().as_subclass(Tensor)
    geometry, plane = _measure_geometry(meta)
    numbers = geometry | measure_intensities(plain) | measure_texture(plain)
    kept = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return ScanProperties(kept, plane, modality_of(case or {}, image, ""))


def _measure_geometry(meta: Mapping[Any, Any]) -> tuple[dict[str, float], str]:
    """Spacing, extent and tilt as the metadata of a file state them, and the plane of its slices."""
    size = [int(extent) for extent in np.asarray(meta.get("spatial_shape", ())).reshape(-1)]
    affine = np.asarray(meta.get("original_affine", ()), dtype=np.float64)
    if affine.shape != (4, 4) or len(size) != 3:
        # A picture has pixels alone; its readers put the identity in place of an affine.
        return {f"extent_{axis}": float(extent) for axis, extent in zip("wh", size, strict=False)}, ""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = [int(axis) for axis in nib.orientations.io_orientation(affine)[:, 0]]
    numbers: dict[str, float] = {}
    for number, axis in enumerate(axes):
        numbers[f"spacing_{'xyz'[axis]}"] = float(spacing[number])
        numbers[f"extent_{'xyz'[axis]}"] = float(spacing[number]) * size[number]
    cosines = [abs(affine[axis, number]) / spacing[number] for number, axis in enumerate(axes)]
    numbers["tilt"] = math.degrees(math.acos(min(1.0, *cosines)))
    return numbers, PLANES[nib.orientations.aff2axcodes(affine)[2]]


def measure_intensities(image: Tensor) -> dict[str, float]:
    """Returns quantiles of the intensities of every channel, ``<quantile>_<channel>``, see :data:`QUANTILES`.

    Args:
        image: Prepared image, ``(C, H, W[, D])``; of a large one, voxels evenly spread.
    """
    flat = image.reshape(len(image), -1)
    sample = flat[:, :: -(-flat.shape[1] // MAX_VALUES)].float().cpu().numpy()
    values = np.quantile(sample, list(QUANTILES.values()), axis=1)
    return {
        f"{name}_{channel}": float(value)
        for name, row in zip(QUANTILES, values, strict=True)
        for channel, value in enumerate(row)
    }


def measure_texture(image: Tensor) -> dict[str, float]:
    """Returns ``noise`` and ``sharpness_<axis>`` of the middle of an image, both without a unit.

    Noise is the robust standard deviation of a second difference along the first two axes, as a share of the range of
    intensities. Sharpness is the mean second difference along an axis over the mean first difference: low where the
    image is blurred or interpolated, high where it is noisy.

    Args:
        image: Prepared image, ``(C, H, W[, D])``.
    """
    largest = MAX_SIZE.get(image.ndim - 1, 32)
    middle = [slice((size - min(size, largest)) // 2, (size + min(size, largest)) // 2) for size in image.shape[1:]]
    block = image[(slice(None), *middle)].float().cpu().numpy()
    names = "xyz" if block.ndim == 4 else "wh"
    numbers = {f"sharpness_{name}": _sharpness(block, axis) for axis, name in enumerate(names, start=1)}
    return numbers | {"noise": _noise(block)}


def _sharpness(block: Array, axis: int) -> float:
    """Mean second difference over mean first difference; NaN along a flat axis."""
    if block.shape[axis] < 3:
        return math.nan
    first, second = (np.abs(np.diff(block, n=order, axis=axis)).mean() for order in (1, 2))
    return float(second / first) if first > 0 else math.nan


def _noise(block: Array) -> float:
    """Robust standard deviation of the second difference along both axes of a slice, over the range of intensities."""
    low, high = np.quantile(block, [0.01, 0.99])
    if min(block.shape[1:3]) < 3 or not high > low:
        return math.nan
    residual = np.abs(np.diff(np.diff(block, n=2, axis=1), n=2, axis=2))
    # Where a scan was padded, or air set to one value, there is no noise to see.
    shown = residual[residual > 0]
    # 0.6745 is the median of absolute normal values; the kernel has a norm of 6.
    return float(np.median(shown) / (0.6745 * 6.0) / (high - low)) if shown.size else 0.0
