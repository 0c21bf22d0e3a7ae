"""Lays out numbers and tables for lines of a log."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number_text(value: float | None, digits: int = 4) -> str:
    """Returns a number with so many significant digits, as logs, pages and pictures show it; ``undefined`` for none.

    Args:
        value: Number of any kind, or ``None`` or NaN.
        digits: Number of significant digits, at least 1. Default 4.

    Example:
        >>> number_text(0.92364), number_text(1), number_text(0.5), number_text(1234.5), number_text(None)
        ('0.9236', '1', '0.5000', '1234', 'undefined')
    """
    if value is None or math.isnan(value):
        return "undefined"
    return str(value) if isinstance(value, int) else f"{float(value):#.{digits}g}".rstrip(".")


def table_lines(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Returns the lines of a table whose columns are aligned.

    Args:
        rows: Cells of every row, the first row with the names of the columns.
        numbers: Whether all columns but the first hold numbers, which end at the same place. Default false.

    Example:
        >>> table_lines([("name", "dsc"), ("a", "10.00"), ("bc", "0.5")], numbers=True)
        ['name    dsc', 'a     10.00', 'bc      0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if numbers and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
