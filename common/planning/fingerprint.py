"""Measures a data set for the plan of a training: sizes, spacing, channels, classes and intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..data.cases import class_names
from ..data.split import patient_of
from ..errors import LabelError
from ..transforms import LoadScand

SAMPLE = 24
"""Most cases that are read, evenly spread over the list."""

MAX_VALUES = 20_000
"""Most voxels of a case whose intensities count, evenly spread."""


@dataclass(frozen=True)
class Fingerprint:
    """What a plan needs to know of a data set.

    Args:
        num_cases: Number of labeled cases.
        num_patients: Number of patients, of which some may have several cases.
        sizes: Sizes of the cases that were read, in voxels along right, front and up; of pictures, width and height.
        spacings: Spacing of these, in mm; 1 for pictures.
        channels: Number of channels of an image.
        classes: Value in the labels -> name; the background, 0, is left out.
        found: Values that occur in the labels that were read, without 0.
        modality: ``CT``, ``MR`` or ``RGB``; empty where nothing tells.
        foreground: 0.5th and 99.5th percentile of the intensities in labeled voxels.
        whole: Least and largest intensity.
        alike: Whether all data sets name the same classes. Default true.
    """

    num_cases: int
    num_patients: int
    sizes: Sequence[Sequence[int]]
    spacings: Sequence[Sequence[float]]
    channels: int
    classes: Mapping[int, str]
    found: Sequence[int]
    modality: str
    foreground: tuple[float, float]
    whole: tuple[float, float]
    alike: bool = True

    @property
    def size(self) -> list[float]:
        """Median size, in voxels."""
        return [float(value) for value in np.median(np.asarray(self.sizes), axis=0)]

    @property
    def spacing(self) -> list[float]:
        """Median spacing, in mm."""
        return [float(value) for value in np.median(np.asarray(self.spacings), axis=0)]

    @property
    def spread(self) -> float:
        """Largest spacing over the smallest one along the same axis, over all cases; 1 where all are alike."""
        values = np.asarray(self.spacings)
        return float((values.max(axis=0) / values.min(axis=0)).max())


def measure_cases(cases: Sequence[Mapping[Any, Any]], *, sample: int = SAMPLE) -> Fingerprint:
    """Returns the measures of a data set; some cases are read, evenly spread.

    Args:
        cases: Labeled cases, at least one.
        sample: Most cases that are read, at least 1. Default 24.

    Raises:
        ImageError: When an image cannot be read.
        LabelError: When a label holds anything but whole numbers from 0.
    """
    chosen = [cases[int(place)] for place in np.linspace(0, len(cases) - 1, min(sample, len(cases))).round()]
    load = LoadScand(["image", "label"])
    sizes, spacings, inside, ends, found = [], [], [], [], set()
    channels = 1
    for case in chosen:
        item = load({"image": case["image"], "label": case["label"]})
        image, label = item["image"], torch.as_tensor(item["label"])
        size, spacing = _geometry(image)
        sizes.append(size)
        spacings.append(spacing)
        channels = len(image)
        found |= _label_values(label, str(case["label"]))
        plain = torch.as_tensor(image).as_subclass(Tensor).float()
        inside.append(_thinned(plain[:, label[0] > 0] if label.shape[1:] == plain.shape[1:] else plain))
        ends += [float(plain.min()), float(plain.max())]
    values = np.concatenate(inside)
    low, high = np.quantile(values, [0.005, 0.995]) if len(values) else (min(ends), max(ends))
    names = {value: name for value, name in class_names(chosen[0]).items() if value > 0}
    return Fingerprint(
        len(cases), len({patient_of(dict(case)) for case in cases}), sizes, spacings, channels, names, sorted(found),
        str(cases[0].get("modality") or ""), (float(low), float(high)), (min(ends), max(ends)), _named_alike(cases),
    )  # fmt: skip


def _named_alike(cases: Sequence[Mapping[Any, Any]]) -> bool:
    """Whether the data sets of the cases name the same classes."""
    first = {str(case.get("task", "")): case for case in reversed(cases)}
    names = [class_names(dict(case)) for case in first.values()]
    return all(each == names[0] for each in names)


def _geometry(image: Any) -> tuple[list[int], list[float]]:
    """Size and spacing along right, front and up; of a picture, as they are."""
    size = [int(extent) for extent in image.shape[1:]]
    if len(size) < 3:
        return size, [1.0] * len(size)
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = [int(axis) for axis in nib.orientations.io_orientation(affine)[:, 0]]
    turned = sorted(range(3), key=lambda place: axes[place])
    return [size[place] for place in turned], [float(spacing[place]) for place in turned]


def _label_values(label: Tensor, where: str) -> set[int]:
    """The class numbers in a label, without background."""
    values = label.as_subclass(Tensor).unique()
    if not bool(((values >= 0) & (values == values.round())).all()):
        raise LabelError(f"{where} holds values that are no class numbers; accepted are whole numbers from 0")
    return {int(value) for value in values if value > 0}


def _thinned(values: Tensor) -> Any:
    """Some of the values, evenly spread."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // MAX_VALUES)].numpy()
