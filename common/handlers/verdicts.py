"""Keeps the verdicts on scans in files while a run goes on; a stopped run goes on from them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.files import csv_line, plain_json
from ..runtime.growing import GrowingFile

logger = logging.getLogger(__name__)

Row = dict[str, Any]

COLUMNS = (
    "image", "oodm", "threshold", "is_ood", "error", "p_value", "expected_dice", "expected_dice_low", "reasons",
)  # fmt: skip
TABLE, REPORT, JOURNAL = "ood_report.csv", "ood_report.json", "ood_report.jsonl"


class VerdictFiles:
    """``ood_report.csv`` and ``ood_report.json``: one row for each scan, in the order of the scans.

    A row that comes last costs no more than itself; another one costs writing both files anew.

    Args:
        folder: Folder of the files.
        head: Entries of the JSON beside the rows.
        order: Place of every scan by its name, from 0; scans that are not named come behind.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], order: Mapping[str, int]) -> None:
        self.order = dict(order)
        self.rows: dict[str, Row] = {}
        self.table = GrowingFile(folder / TABLE, head=csv_line(COLUMNS))
        begin = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "rows": [\n'
        self.report = GrowingFile(folder / REPORT, head=begin, separator=",\n", tail="\n  ]\n}\n")
        self._last = math.inf

    def write(self, rows: Mapping[str, Row]) -> None:
        """Writes both files anew.

        Args:
            rows: Rows by the names of the scans.

        Raises:
            OutputError: When a file cannot be written.
        """
        # Unless both files are written, the next row must write them anew.
        self._last = math.inf
        self.rows = dict(sorted(rows.items(), key=lambda item: self._place(item[0])))
        self.table.write([csv_line([row[name] for name in COLUMNS]) for row in self.rows.values()])
        self.report.write([_entry(row) for row in self.rows.values()])
        self._last = max(map(self._place, self.rows), default=-1)

    def put(self, row: Row) -> None:
        """Writes the row of a scan, in place of an earlier one.

        Args:
            row: Row with the columns :data:`COLUMNS`.

        Raises:
            OutputError: When a file cannot be written.
        """
        name, row = row["image"], plain_json(row)
        if self.rows.get(name) == row and self._last < math.inf:
            return
        place, last = self._place(name), self._last
        if place > last:
            self._last = math.inf
            if self.table.append(csv_line([row[column] for column in COLUMNS])) and self.report.append(_entry(row)):
                self.rows[name], self._last = row, place
                return
        self.write(self.rows | {name: row})

    def _place(self, name: str) -> int:
        return self.order.setdefault(name, len(self.order))


def _entry(row: Row) -> str:
    """A row in the list of the JSON."""
    return "    " + json.dumps(row, indent=2, allow_nan=False).replace("\n", "\n    ")


class Journal:
    """``ood_report.jsonl``: a line for each scan that is done, with what its input was, after a line on the run.

    Args:
        folder: Folder of the file.
        run: Digests and settings that must be equal for a later run to go on from the journal.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.run = dict(run)
        self.file = GrowingFile(folder / JOURNAL, head=_line(self.run))

    def read(self) -> dict[str, Row]:
        """Returns name of a scan -> ``input`` and ``row`` of what an equal run has done; nothing of another run."""
        try:
            text = self.file.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            logger.info("no %s: every scan is segmented", self.file.path)
            return {}
        first, *lines = [_parse(line) for line in text.split("\n")]
        differs = sorted(key for key in self.run.keys() | first.keys() if self.run.get(key) != first.get(key))
        if differs:
            logger.warning(
                "%s was written with another %s: every scan is segmented", self.file.path, ", ".join(differs)
            )
            return {}
        return {line["row"]["image"]: line | {"row": dict.fromkeys(COLUMNS) | line["row"]} for line in lines if line}

    def write(self, done: Mapping[str, Row]) -> None:
        """Writes the journal anew.

        Raises:
            OutputError: When it cannot be written.
        """
        self.done = dict(done)
        self.file.write([_line(line) for line in self.done.values()])

    def add(self, line: Row) -> None:
        """Writes a line on one more scan.

        Args:
            line: Line with ``input``, see :func:`~..runtime.files.fingerprint`, and ``row``.

        Raises:
            OutputError: When it cannot be written.
        """
        self.done[line["row"]["image"]] = line
        if not self.file.append(_line(line)):
            self.write(self.done)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(plain_json(content)) + "\n"


def _parse(line: str) -> Row:
    """The content of a line; nothing of one that a power cut has left half written."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
