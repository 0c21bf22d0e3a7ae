"""Measures a test set person by person: what experiments compare, whoever has however many slices or tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.split import patient_of
from ..metrics.confusion import (
    Matrix,
    all_background,
    class_dices,
    foreground_confusions,
    mean_of_present,
    pooled_iou,
)
from ..metrics.segmentation import pooled_overlap_dice

Measures = dict[str, dict[str, float]]
"""Metric -> person -> value, which is finite; the person ``""`` stands for the whole test set."""

RAREST = 3
"""Number of classes, those with the fewest voxels in the labels of a test set, that count as its rarest."""

WHOLE = ""
MEANS = ("assd", "hd95", "ece", "mce")
"""Metrics of a person that are means over cases and classes; overlaps are added up."""


def measure_persons(rows: Sequence[Mapping[str, Any]]) -> Measures:
    """Returns the measures of labeled cases, put together for every person and for the whole test set.

    Voxels of all cases of a person, and of the whole test set, are added up before the Dice is taken: false positives
    on empty slices count.

    Args:
        rows: Rows of the recorder, one for each case, see ``CaseRecorder``; those without ``metrics`` (no label,
            failed) are left out.

    Returns:
        ``dsc`` (mean over classes), ``dsc_<class>``; means over cases and classes of ``assd`` and ``hd95`` in mm, and
        of ``ece`` and ``mce`` in the band around the surface. With matrices also ``dsc_rarest``, where there are more
        than three classes of foreground, the mean over the :data:`RAREST` with the fewest voxels in the whole test set;
        ``false_positives``, pixels of background called foreground, ``false_alarm``, the share of cases without
        foreground in which some is called, and ``iou_pooled``, see :func:`~..metrics.confusion.pooled_iou`, as mean
        over cases, beside
        ``iou_pooled_constant``, that of a prediction of nothing but background.
    """
    measured = [row for row in rows if "metrics" in row]
    several = len({str(row.get("group", "")) for row in measured}) > 1
    persons: dict[str, list[Mapping[str, Any]]] = {WHOLE: list(measured)} if measured else {}
    for row in measured:
        name = patient_of(row, alone="case")
        # Data sets may number their patients alike.
        persons.setdefault(f"{row.get('group', '')}/{name}" if several else name, []).append(row)
    measures: Measures = {}
    rarest = _rarest_classes(measured)
    for person, cases in persons.items():
        for metric, value in _measure(cases, rarest).items():
            if not math.isnan(value):
                measures.setdefault(metric, {})[person] = value
    return measures


def measure_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, Measures]:
    """Returns the measures of every group of labeled cases, such as those of one data set, see :func:`measure_persons`.

    Args:
        rows: Rows of the recorder, one for each case, see ``CaseRecorder``.

    Returns:
        Group -> measures, in the order of the rows.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get("group", "")), []).append(row)
    return {name: measure_persons(members) for name, members in groups.items()}


def _matrices(cases: Sequence[Mapping[str, Any]]) -> list[Matrix]:
    """The confusion matrices of cases that all have one; else none."""
    matrices = [case["confusion"] for case in cases if "confusion" in case]
    return matrices if len(matrices) == len(cases) else []


def _rarest_classes(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the classes with the fewest voxels in the labels, those that occur at all; none among a few classes."""
    matrices = _matrices(cases)
    voxels = np.sum(matrices, axis=0)[1:].sum(axis=1) if matrices else np.zeros(0)
    present = [number for number in np.argsort(voxels, kind="stable").tolist() if voxels[number]]
    return [str(number + 1) for number in present[:RAREST]] if len(present) > RAREST else []


def _measure(cases: Sequence[Mapping[str, Any]], rarest: Sequence[str]) -> dict[str, float]:
    """The measures of some cases together; NaN for what they do not have."""
    matrices = _matrices(cases)
    if matrices:
        total = np.sum(matrices, axis=0)
        dices = {str(number): dice for number, dice in enumerate(class_dices(total), start=1)}
        counts = {"false_positives": float(foreground_confusions(total)["background_as_foreground"])}
        empty = [matrix for matrix in matrices if not matrix[1:].sum()]
        counts["dsc_rarest"] = mean_of_present([dices[name] for name in rarest])
        counts["false_alarm"] = mean_of_present([float(matrix[0, 1:].any()) for matrix in empty])
        counts["iou_pooled"] = mean_of_present([pooled_iou(matrix) for matrix in matrices])
        counts["iou_pooled_constant"] = mean_of_present([pooled_iou(all_background(matrix)) for matrix in matrices])
    else:
        names = sorted({name for case in cases for name in case["metrics"]})
        dices = {name: pooled_overlap_dice(_overlaps(cases, name)) for name in names}
        counts = {}
    means = {metric: mean_of_present(_values(cases, metric)) for metric in MEANS}
    return (
        {"dsc": mean_of_present(list(dices.values()))}
        | {f"dsc_{name}": dice for name, dice in dices.items()}
        | means
        | counts
    )


def _overlaps(cases: Iterable[Mapping[str, Any]], channel: str) -> list[Sequence[int]]:
    """The counted voxels of a channel in every case that has it; data sets may differ in their channels."""
    return [case["overlaps"][channel] for case in cases if channel in case["overlaps"]]


def _values(cases: Iterable[Mapping[str, Any]], metric: str) -> list[float]:
    """A metric of all channels in every case that has it."""
    return [values[metric] for case in cases for values in case["metrics"].values() if metric in values]
