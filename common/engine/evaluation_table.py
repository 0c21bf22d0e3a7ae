"""Says in a few lines what an evaluation found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics.segmentation import MM, metric_title
from ..runtime.tables import number_text, table_lines

OF_THE_WHOLE = ("iou_pooled", "miou_foreground", "dsc_foreground")


OTHER_CLASSES = (
    "out-of-distribution cases are measured by their own labels: where these are of other classes than the network "
    "segments, their Dice is no measure of quality"
)
"""What is to be known of the segmentation of other data sets."""


def distance_unit_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the unit of distances, both where cases differ; mm where no case tells it.

    Args:
        rows: Rows of the recorder, one for each case.
    """
    return " or ".join(sorted({row["unit"] for row in rows if "unit" in row})) or MM


def notes_on_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what is to be known of the Dice of labeled cases of other data sets; nothing without such cases.

    Args:
        rows: Rows of the recorder; damaged cases of the test set itself have its classes.
    """
    outside = (row for row in rows if not row.get("in_distribution", True) and not row.get("damage"))
    return [OTHER_CLASSES] if any("metrics" in row for row in outside) else []


def result_lines(report: Mapping[str, Any], *, unit: str = MM) -> list[str]:
    """Returns the lines of the figures that a user looks for first, with four significant digits.

    Args:
        report: Content of ``metrics.json``.
        unit: Unit of distances. Default ``mm``.
    """
    return [*_segmentation(report["segmentation"], unit), *_whole(report["test_set"]), *_detection(report)]


def _segmentation(report: Mapping[str, Any], unit: str) -> list[str]:
    """Mean, standard deviation and number of cases of every metric."""
    rows = [
        (metric_title(metric, unit), number_text(found["mean"]), number_text(found["std"]), number_text(found["n"]))
        for metric, found in report.items()
        if found["mean"] is not None
    ]
    lines = table_lines([("in-distribution", "mean", "std", "n"), *rows], numbers=True) if rows else []
    absent = [metric for metric, found in report.items() if found["mean"] is None]
    if absent:
        lines.append(
            f"{', '.join(absent)}: undefined, since no labeled case has both foreground and a prediction of it"
        )
    return lines


def _whole(report: Mapping[str, Any]) -> list[str]:
    """Measures of all labeled cases together, beside those of a prediction of background alone."""
    if not report:
        return []
    rows = [(name, number_text(report[name]), number_text(report["all_background"][name])) for name in OF_THE_WHOLE]
    lines = table_lines([("all cases together", "found", "all background"), *rows], numbers=True)
    absent = math.isnan(report["dsc_foreground"])
    return [*lines, "the labels of the test set hold no foreground"] if absent else lines


def _detection(report: Mapping[str, Any]) -> list[str]:
    """Detection for every folder, and the share of false alarms."""
    found: Mapping[str, Mapping[str, Any]] = report["detection"]
    names = [name for name, value in next(iter(found.values()), {}).items() if isinstance(value, float)]
    rows = [(folder, *(number_text(figures.get(name)) for name in names)) for folder, figures in found.items()]
    lines = table_lines([("out-of-distribution", *names), *rows], numbers=True) if rows else []
    alarms = report["false_alarms"]
    if alarms["n"]:
        number = round(alarms["share"] * alarms["n"])
        share = number_text(alarms["share"])
        lines.append(f"false alarms: {number} of {alarms['n']} in-distribution case(s), a share of {share}")
    return lines
