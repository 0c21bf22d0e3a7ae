"""Lays out the verdicts on scans as lines of the log, one for each of the first scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import one_line
from ..runtime.tables import number_text, table_lines
from .recorder import quality_text

LIMIT = 20
"""Number of scans that have a line."""


def summary_lines(rows: Sequence[Mapping[str, Any]], *, limit: int = LIMIT) -> list[str]:
    """Returns a line for each of the first scans, with columns aligned, and how many more there are.

    Args:
        rows: Rows of the report on scans, see :func:`~.report.report_row`.
        limit: Number of scans that have a line, at least 1. Default 20.

    Example:
        >>> row = {"image": "a", "oodm": 0.5, "threshold": 2.0, "is_ood": False, "error": None}
        >>> summary_lines([row, row | {"image": "bc"}], limit=1)
        ['a  in distribution  OODM 0.5000 / 2.000', '... and 1 more scan(s)']
    """
    shown = [(one_line(str(row["image"])), *_verdict(row)) for row in rows[:limit]]
    more = len(rows) - len(shown)
    return (table_lines(shown) if shown else []) + ([f"... and {more} more scan(s)"] if more else [])


def _verdict(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """The verdict in words, its numbers, and what else is to be said: the Dice to expect, reasons, an error."""
    word = {None: "no verdict", True: "OUT OF DISTRIBUTION", False: "in distribution"}[row["is_ood"]]
    numbers = "" if row["is_ood"] is None else f"OODM {number_text(row['oodm'])} / {number_text(row['threshold'])}"
    notes = (quality_text(row), row.get("reasons"), row["error"])
    return word, numbers, one_line("; ".join(str(note) for note in notes if note))
