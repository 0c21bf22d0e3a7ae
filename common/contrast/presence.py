"""Reads which classes a frame shows, without saying where: from the listing, a table, or its mask."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..data.cases import Case, case_name
from ..data.split import except_files, patient_of
from ..errors import ConfigError, LabelError, MissingDataError

logger = logging.getLogger(__name__)

PhaseSource = Literal["data", "position", "none"]

NO_PHASE = -1
"""Number that stands for a phase that nothing tells."""
UNKNOWN = -1
"""Value that stands for whether a frame shows a class, where nothing tells it."""


class PresenceReader:
    """Tells which foreground classes every case shows.

    The table comes first, then ``classes`` of the listing (``dataset.json``), then the mask itself. The phase of the
    operation comes from the table or the listing, or is the part of the patient's frames that a frame belongs to.

    Args:
        num_classes: Number of classes, C, background included.
        presence_file: Path of a CSV table with the columns ``image`` (name of the case, or of its file with as many
            folders as tell it from others), ``classes`` and, optionally, ``phase``. ``classes`` holds label values
            between spaces or semicolons; it is empty where only background is seen. With ``None``, the default, there
            is no table.
        foreground_labels: Data set (``task`` of a case) -> label values of the classes that count, in order. With
            ``None``, the default, label values are class indices.
        reader: Function that loads the ``label`` of a case as class indices, checked against its ``image``. With
            ``None``, the default, no mask is read.
        phase_from: Where the phase comes from: ``data``, the default, see above; ``position`` for the third of the
            frames of a patient, in the order of their ``slice`` or else of their names; ``none`` for no phase.

    Raises:
        ConfigError: When there is no such source of the phase.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        presence_file: str | None = None,
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
        reader: Callable[..., Any] | None = None,
        phase_from: PhaseSource = "data",
    ) -> None:
        if phase_from not in get_args(PhaseSource):
            raise ConfigError(f"phase_from is {phase_from!r}; accepted are {', '.join(get_args(PhaseSource))}")
        self.phase_from = phase_from
        self.num_classes, self.foreground_labels = num_classes, dict(foreground_labels or {})
        self.reader = reader
        self.table = read_presence(presence_file) if presence_file else {}
        self._read: dict[str, list[int]] = {}
        self._told: dict[str, Case] = {}

    def annotate(self, cases: Sequence[Case]) -> list[Case]:
        """Returns the cases with ``present``, the sorted class indices, and ``phase``, where something tells them.

        Raises:
            LabelError: When a class is named that the network does not have.
        """
        described = [case if "present" in case else self._describe(case) for case in cases]
        # Parts of the cases, which are annotated once more, would have other thirds.
        return described if self.phase_from != "position" else with_position(described)

    def _describe(self, case: Case) -> Case:
        """One case with what the table, the listing or its mask tells."""
        row = self._row(case)
        described = case | ({"phase": row["phase"]} if row.get("phase") else {})
        if self.phase_from != "data":
            described.pop("phase", None)
        values = row.get("classes", case.get("listed"))
        if values is not None:
            return described | {"present": self._indices(values, case)}
        if "label" in case and self.reader is not None:
            path = str(case["label"])
            if path not in self._read:
                label = torch.as_tensor(self.reader(dict(case))["label"])
                self._read[path] = sorted(int(value) for value in label.unique().tolist() if value)
            return described | {"present": self._read[path]}
        return described

    def _row(self, case: Case) -> dict[str, Any]:
        """What the table tells of a case: by its name, or by the end of the path of its file, the longest first."""
        parts = Path(str(case["image"])).parts
        names = [str(case.get("case", "")), *(Path(*parts[start:]).as_posix() for start in range(len(parts)))]
        name = next((name for name in names if name in self.table), None)
        if name is None:
            return {}
        other = self._told.setdefault(name, case)
        if except_files([case], [other]):
            raise LabelError(
                f"presence_file names {name!r}, which both {other['image']} and {case['image']} are called; add their "
                "folders"
            )
        return self.table[name]

    def _indices(self, values: Sequence[int], case: Case) -> list[int]:
        """Class indices of label values; background is none."""
        named = self.foreground_labels.get(str(case.get("task", "")))
        if named is not None:
            return sorted(number for number, value in enumerate(named, start=1) if value in values)
        beyond = [value for value in values if not 0 <= value < self.num_classes]
        if beyond:
            raise LabelError(
                f"case {case.get('case', '')!r} is said to show class {beyond[0]}, but out_channels is "
                f"{self.num_classes}, that is, 0 to {self.num_classes - 1}; raise it, or name the values that count in "
                "foreground_labels"
            )
        return sorted({int(value) for value in values} - {0})


def with_position(cases: Sequence[Case], parts: int = 3) -> list[Case]:
    """Returns the cases with ``phase``, the part of its patient's frames that each belongs to, from 0.

    Cases that have a phase keep it, so that those of a part of the data set keep that of the whole.

    Args:
        cases: Frames of all patients; their order is that of ``slice``, where given, else of their names.
        parts: Number of equally large parts, at least 1. 3 by default.
    """
    order = sorted(range(len(cases)), key=lambda n: (cases[n].get("slice", -1), _natural(cases[n].get("case", ""))))
    members: dict[tuple[str, str], list[int]] = {}
    for number in order:
        members.setdefault((str(cases[number].get("task", "")), patient_of(cases[number])), []).append(number)
    part = {n: rank * parts // len(own) for own in members.values() for rank, n in enumerate(own)}
    return [{"phase": str(part[number])} | case for number, case in enumerate(cases)]


def _natural(name: Any) -> list[tuple[int, str]]:
    """What sorts names by their numbers: frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(name))]


def read_presence(path: str | Path) -> dict[str, dict[str, Any]]:
    """Returns the rows of a table of classes: name of a case or file -> ``classes`` and, where given, ``phase``.

    Args:
        path: Path of the CSV table, see :class:`PresenceReader`.

    Raises:
        MissingDataError: When the file does not exist or lacks a column.
        LabelError: When a class is no whole number.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"presence_file {path} does not exist; give a CSV with the columns image and classes")
    rows: dict[str, dict[str, Any]] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"image", "classes"} <= set(table.fieldnames or ()):
            raise MissingDataError(
                f"presence_file {path} has the columns {list(table.fieldnames or ())}; it needs image and classes, and "
                "may have phase"
            )
        for row in table:
            try:
                classes = [int(value) for value in (row["classes"] or "").replace(";", " ").split()]
            except ValueError as error:
                raise LabelError(
                    f"presence_file {path} gives {row['image']!r} the classes {row['classes']!r}; accepted are "
                    "label values as whole numbers, separated by spaces or semicolons"
                ) from error
            entry = {"classes": classes, "phase": (row.get("phase") or "").strip()}
            image = Path(row["image"]).as_posix()
            # The name alone would stand for files of all folders.
            for name in {image} if "/" in image else {image, case_name(image)}:
                if rows.setdefault(name, entry) != entry:
                    raise LabelError(f"presence_file {path} has two rows of {name!r} that differ; keep one of them")
    return rows


def presence_table(cases: Sequence[Case], num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns which classes every case shows, and the number of its phase.

    Args:
        cases: Annotated cases, see :meth:`PresenceReader.annotate`.
        num_classes: Number of classes, C, background included.

    Returns:
        ``(N, C - 1)`` float32 of zeros and ones, a row of -1 where nothing tells the classes, and ``(N,)`` int64, -1
        where no phase is given.
    """
    table = torch.zeros(len(cases), num_classes - 1)
    names = sorted({str(case["phase"]) for case in cases if "phase" in case})
    numbers = {name: number for number, name in enumerate(names)}
    for row, case in zip(table, cases, strict=True):
        if "present" in case:
            row[[index - 1 for index in case["present"]]] = 1
        else:
            row[:] = UNKNOWN
    phases = [numbers[str(case["phase"])] if "phase" in case else NO_PHASE for case in cases]
    return table, torch.tensor(phases, dtype=torch.long)


def frames_to_learn(cases: Sequence[Case], presence: PresenceReader, *, needed: bool, used: bool) -> list[Case]:
    """Returns the frames without masks that training uses, annotated.

    Args:
        cases: Frames without masks.
        presence: Reader that tells which classes each frame shows.
        needed: Whether a frame must tell its classes; those that do not are left out with a warning.
        used: Whether such frames are used at all.
    """
    annotated = presence.annotate(cases) if used else []
    chosen = [case for case in annotated if "present" in case or not needed]
    if len(chosen) < len(annotated):
        missing = next(case for case in annotated if "present" not in case)
        logger.warning(
            "%d of %d frames without a mask do not tell their classes and are left out, the first is case %r: name "
            "their classes in dataset.json or presence_file",
            len(annotated) - len(chosen), len(annotated), missing.get("case", ""),
        )  # fmt: skip
    return chosen
