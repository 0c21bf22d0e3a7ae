"""Writes the tables of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .words import breakable, is_number, kinds, number, text

WORDS = {"out": "OUT OF DISTRIBUTION", "in": "in distribution", "none": "no verdict"}

COLUMNS = {
    "name": "scan", "group": "group", "verdict": "verdict", "oodm": "OODM", "p_value": "p\u2011value", "dsc": "Dice",
    "expected_dice": "expected Dice", "reasons": "reasons",
}  # fmt: skip
"""Class of a cell -> head of its column; lines do not end at the hyphen of the p-value."""

NUMBERS = ("oodm", "p_value", "dsc", "expected_dice")
OPTIONAL = ("group", "dsc", "expected_dice", "p_value", "reasons")
"""Columns of numbers, and columns that are left out where no row has a value."""


@dataclass(frozen=True)
class FigureTable:
    """A table of figures.

    Args:
        title: Words above the table.
        header: Heads of the columns.
        lines: Lines of cells, as many as columns: texts, numbers, or ``None``.
        note: Words between title and table. Default nothing.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[Any]]
    note: str = ""


def scan_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of scans.

    Args:
        rows: Rows of the report, each with its ``thumbnail``, and, of an evaluation, ``group`` and ``dsc``.
    """
    # A scan that failed has no reasons: its error stands in their place, which leaves both enough room.
    told = [{**row, "reasons": row.get("error") or row.get("reasons")} for row in rows]
    shown = [name for name in COLUMNS if name not in OPTIONAL or any(_is_given(row.get(name)) for row in told)]
    given = {_label("reasons", row) for row in told if row["reasons"]}
    words = [word for word in ("reasons", "error") if word in given]
    heads = [_head(name, " or ".join(words) if name == "reasons" else COLUMNS[name]) for name in shown]
    lines = [_line(index, row, shown) for index, row in enumerate(told)]
    head = f"<thead><tr><th>picture</th>{''.join(heads)}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>\n{"".join(lines)}</tbody></table></div>'


def figure_table(table: FigureTable) -> str:
    """Returns a table of figures under its title."""
    head = "".join(f"<th>{breakable(name)}</th>" for name in table.header)
    lines = "".join(f"<tr>{''.join(f'<td>{_plain(cell)}</td>' for cell in line)}</tr>\n" for line in table.lines)
    body = f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>'
    note = f'<p class="notice">{text(table.note)}</p>' if table.note else ""
    return f'<h2>{text(table.title)}</h2>{note}<div class="wide">{body}</div>'


def _plain(cell: Any) -> str:
    return number(cell) if isinstance(cell, float) else breakable(cell)


def _is_given(value: Any) -> bool:
    """Whether a cell is not empty."""
    return is_number(value) or (isinstance(value, str) and value != "")


def _head(name: str, words: str) -> str:
    """Head of a column, which the script makes a button that sorts."""
    kind = "number" if name in NUMBERS else "text"
    return f'<th data-kind="{kind}"><button type="button" disabled>{words}</button></th>'


def _label(column: str, row: Mapping[str, Any]) -> str:
    """Name of a cell, which a phone shows before its content."""
    return "error" if column == "reasons" and row.get("error") else COLUMNS[column]


def _line(index: int, row: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The row of a scan."""
    name, found = text(row["image"]), kinds(row)
    picture = f'<img src="{text(row.get("thumbnail"))}" alt="segmentation of {name}" loading="lazy">'
    inside = picture if row.get("thumbnail") else "view" if is_number(row.get("oodm")) else ""
    # A scan without a picture and without a place in the histogram has nothing to be viewed.
    button = inside and f'<button type="button" class="look" title="larger view">{inside}</button>'
    cells = "".join(_cell(column, row) for column in shown)
    return f'<tr class="{" ".join(found)}" data-row="{index}"><td data-value="">{button}</td>{cells}</tr>\n'


def _cell(column: str, row: Mapping[str, Any]) -> str:
    """A cell, with the value by which the script sorts."""
    value = {"name": row["image"], "verdict": WORDS[kinds(row)[0]]}.get(column, row.get(column))
    shown = {"oodm": _oodm, "verdict": _verdict, "expected_dice": _expected}.get(column)
    content = shown(row) if shown else number(value) if column in NUMBERS else breakable(value)
    sorted_by = repr(float(value)) if is_number(value) else text(value) if isinstance(value, str) else ""
    classes = f"{column} number" if column in NUMBERS else column
    return f'<td class="{classes}" data-label="{_label(column, row)}" data-value="{sorted_by}">{content}</td>'


def _verdict(row: Mapping[str, Any]) -> str:
    verdict, *failed = kinds(row)
    return f"<b>{WORDS[verdict]}</b>" + (" (error)" if failed else "")


def _oodm(row: Mapping[str, Any]) -> str:
    """The OODM, and how it compares with the threshold."""
    if not is_number(row.get("oodm")):
        return ""
    threshold = row.get("threshold")
    against = f"threshold {number(threshold)}" if is_number(threshold) else ""
    share = f"<small>{row['oodm'] / threshold:.2f} &times;</small> " if is_number(threshold) and threshold else ""
    return f"{number(row['oodm'])}<br>{share}<small>{against}</small>"


def _expected(row: Mapping[str, Any]) -> str:
    """The Dice to expect, and the least to expect."""
    if not is_number(row.get("expected_dice")):
        return ""
    low = row.get("expected_dice_low")
    bound = (f"at least {low:.2f}" if low > 0 else "nothing promised") if is_number(low) else ""
    return f"{row['expected_dice']:.2f}" + (f"<br><small>{bound}</small>" if bound else "")
