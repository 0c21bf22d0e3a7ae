"""Reads and writes rows of results in long format: one for each run, case and metric, as they are committed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDataError
from ..runtime.files import write_csv

COLUMNS = (
    "experiment", "dataset", "arm", "labeled", "seed", "fold", "iterations", "seconds", "case", "metric", "value",
    "swept", "dose", "settings", "data",
)  # fmt: skip
"""``case`` is a patient, operation or tile, and empty for a measure of the whole test set; ``seconds`` count training
and evaluation; ``swept`` names the setting whose value is ``dose``; ``settings`` and ``data`` are digests."""

MEASURED = ("iterations", "seconds", "case", "metric", "value")
"""Columns that a run fills in; the others say which run it was, but for ``dataset`` of a run on several."""

Row = dict[str, str]
Key = tuple[str, str]
"""Digests of the settings and the data of a run: what it is known by, whoever ran it and whatever it was called."""


def read_rows(path: Path) -> dict[Key, list[Row]]:
    """Returns the rows of a file, run by run; none where there is no file.

    Raises:
        MissingDataError: When a column is missing.
    """
    runs: dict[Key, list[Row]] = {}
    if not path.is_file():
        return runs
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise MissingDataError(f"{path} has no column {missing[0]!r}; give the rows that an experiment wrote")
        for row in table:
            runs.setdefault((row["settings"], row["data"]), []).append(row)
    return runs


def write_rows(runs: Iterable[Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Writes the rows of several runs, all or nothing.

    Raises:
        OutputError: When the file cannot be written.
    """
    write_csv((row for rows in runs for row in rows), COLUMNS, path)


def name_rows(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Any]) -> list[Row]:
    """Returns measured rows as those of a run: what is measured stays, and all else is said of the run as it is now.

    Args:
        rows: Measured rows, each with the columns :data:`MEASURED`.
        columns: Values that the rows of the run have in the other columns, by column. A run on several data sets does
            not say ``dataset``: that of each row stays.
    """
    said = {name: value for name, value in columns.items() if name not in MEASURED}
    return [{name: str({**row, **said}[name]) for name in COLUMNS} for row in rows]


def same_place(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns where in the grid a run stands: its rows replace those of another run that stood there."""
    return tuple(
        str(row[name]) for name in ("experiment", "dataset", "arm", "labeled", "seed", "fold", "swept", "dose")
    )
