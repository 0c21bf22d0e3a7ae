"""Names the classes that a training learns, after its data sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..dicom.describe import numbered_class
from .cases import Case, class_names, find_class_name

logger = logging.getLogger(__name__)


def legend_names(
    cases: Sequence[Case], number: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
) -> dict[int, str]:
    """Returns the foreground classes of a softmax network as a legend names them: ``hook``, or else ``class 2``.

    Args:
        cases: Cases whose data sets may tell the names.
        number: Number of the foreground classes, at least 1.
        foreground_labels: Data set -> label values of the classes that count, in order. With ``None``, the default,
            label values are class indices.

    Returns:
        Index of the class, from 1 -> what a legend says.
    """
    indices = range(1, number + 1)
    return {index: find_class_name(cases, index, foreground_labels) or numbered_class(index) for index in indices}


def named_classes(
    cases: Sequence[Case], out_channels: int, *, sigmoid: bool, foreground_labels: Mapping[str, Sequence[int]] | None
) -> dict[str, str]:
    """Returns the names of the classes that a network segments, which its results bear.

    Weights must not be called after the bundle's organ just since their data sets name no classes: they get numbers.

    Args:
        cases: Labeled cases of training, of one or several data sets.
        out_channels: Number of output channels of the network.
        sigmoid: Whether each channel is a class by itself; otherwise the first one is background.
        foreground_labels: Data set -> label values of the classes that count, in order. With ``None``, all do.

    Returns:
        Index of the class, as a text from ``1`` -> name. All are numbered, as ``class 1``, where a name is missing,
        where classes are learned as one, or where data sets name them differently.
    """
    number = out_channels if sigmoid else out_channels - 1
    numbered = {str(index): numbered_class(index) for index in range(1, number + 1)}
    found: dict[str, str] = {}
    seen: set[str] = set()
    for case in cases:
        task = str(case.get("task", ""))
        if task in seen or "label" not in case:
            continue
        seen.add(task)
        names = class_names(case)
        values = (foreground_labels or {}).get(task) or sorted(value for value in names if value > 0)
        named = {str(index): names[value] for index, value in enumerate(values, start=1) if value in names}
        if len(values) != number and names and not case.get("phantom"):
            logger.info(
                "data set %r has %d class(es), the network learns %d: results name none; the command plan chooses such "
                "settings from the data",
                task, len(values), number,
            )  # fmt: skip
        if len(named) != number or len(values) != number or (found and found != named):
            return numbered
        found = named
    return found or numbered
