"""Names the classes that a training learns, after its data sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..dicom.describe import numbered_class
from .cases import Case, class_names, find_class_name

logger = logging.getLogger(__name__)

LONGEST_NAME = 40
"""Characters of the longest name of one class."""


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
        Index of the class, as a text from ``1`` -> name. Classes that are learned as one are called after all of them,
        ``anterior and posterior``, or ``13 classes as one`` where that is long. All are numbered, as ``class 1``, where
        a name is missing or data sets name them differently. Empty for cases of no data set, which a server or a
        federation sets from outside: they are labeled with the classes of the weights that are there.
    """
    number = out_channels if sigmoid else out_channels - 1
    numbered = {str(index): numbered_class(index) for index in range(1, number + 1)}
    found: dict[str, str] = {}
    seen: set[str] = set()
    for case in cases:
        task = str(case.get("task", ""))
        if task in seen or not {"task", "label"} <= case.keys():
            continue
        seen.add(task)
        names = class_names(case)
        values = (foreground_labels or {}).get(task) or sorted(value for value in names if value > 0)
        if sigmoid and number == 1 and len(values) > 1:
            names, values = {1: _merged_name([names.get(value) for value in values])}, [1]
        named = {str(index): names[value] for index, value in enumerate(values, start=1) if names.get(value)}
        if len(values) != number and names and not case.get("phantom"):
            logger.info(
                "data set %r has %d class(es), the network learns %d: results name none; the command plan chooses such "
                "settings from the data",
                task, len(values), number,
            )  # fmt: skip
        if len(named) != number or len(values) != number or (found and found != named):
            return numbered
        found = named
    return found


def _merged_name(names: Sequence[str | None]) -> str:
    """What one channel that stands for several classes is called; empty where one of them has no name."""
    if not all(names):
        return ""
    name = " and ".join(map(str, names))
    return name if len(name) <= LONGEST_NAME else f"{len(names)} classes as one"
