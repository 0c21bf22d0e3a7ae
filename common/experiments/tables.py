"""Tables of an experiment in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..metrics.segmentation import MM, PIXELS, metric_title

UNIT = f"{MM}, of pictures {PIXELS}"
"""Unit of distances; rows of experiments do not tell which of both."""

HEADER = ("labeled", "dose", "arm", "mean", "sd_of_seeds", "whole", "n", "runs", "difference", "p", "p_t")
"""Columns of a table of a summary, in order."""

VARIED = ("labeled", "dose", "sd_of_seeds")
"""Those that a table has where the experiment varies something."""

TITLES = {
    "mean": "mean of patients [95 %]",
    "sd_of_seeds": "sd of seeds",
    "whole": "whole test set",
    "n": "patients",
    "p": "p (Holm)",
    "p_t": "p (t-test)",
}

PLACE = ("labeled", "dose", "arm")
"""What the lines of a table by fold are told apart by."""


def markdown_table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table below its title, with a line break at its end.

    Args:
        title: Title, in Markdown.
        head: Titles of the columns.
        lines: Cells of every line.
    """
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def summary_tables(table: pd.DataFrame, metrics: Sequence[str], reference: str) -> str:
    """Returns a table for each data set and metric.

    Args:
        table: Summary with the columns of ``experiments.summary.SUMMARY``.
        metrics: Metrics that get a table.
        reference: Arm that the others are tested against.
    """
    parts = []
    for (dataset, metric), cells in table[table["metric"].isin(metrics)].groupby(["dataset", "metric"], sort=False):
        shown = [name for name in HEADER if name not in VARIED or cells[name].fillna(0).any()]
        lines = [[_cell(line, name) for name in shown] for line in cells.to_dict("records")]
        said = {"difference": f"median difference to {reference} [95 %]", "dose": swept_setting(cells)}
        title = f"**{dataset}**, `{metric_title(metric, UNIT)}`"
        parts.append(markdown_table(title, [(TITLES | said).get(name, name) for name in shown], lines))
    return "\n".join(parts)


def _cell(line: dict[str, Any], name: str) -> str:
    """A cell of a table."""
    if name == "mean":
        found = [line[key] for key in ("mean", "mean_low", "mean_high")]
        return "" if math.isnan(found[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*found)
    if name == "difference":
        found = [line[key] for key in ("median_difference", "low", "high")]
        return "" if pd.isna(found[0]) else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)
    value = line["p_holm"] if name == "p" else line[name]
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def swept_setting(cells: pd.DataFrame) -> str:
    """Returns the name of the setting that was swept.

    Args:
        cells: Lines of a summary.
    """
    return next((name for name in cells["swept"] if name), "dose")


def fold_tables(rows: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Returns a table for each data set and metric that is measured of whole test sets: its value in every fold.

    Args:
        rows: Rows with the columns of ``experiments.rows.COLUMNS``; all are texts but ``value``, a number. What several
            seeds have measured in one fold counts by its mean.
        metrics: Metrics that get a table.
    """
    whole = rows[(rows["case"] == "") & rows["metric"].isin(metrics)]
    tables = [""]
    for (dataset, metric), cells in whole.groupby(["dataset", "metric"], sort=False):
        shown = [name for name in PLACE if name == "arm" or cells[name].any()]
        values = cells.groupby([*shown, "fold"], sort=False)["value"].mean().unstack("fold")
        lines = [
            [*(place if isinstance(place, tuple) else (place,)), *("" if pd.isna(v) else f"{v:.3f}" for v in found)]
            for place, found in zip(values.index, values.to_numpy(), strict=True)
        ]
        head = [*shown, *(f"fold {name}" for name in values.columns)]
        tables.append(markdown_table(f"**{dataset}**, `{metric}` of the whole test set of every fold", head, lines))
    return "\n".join(tables)
