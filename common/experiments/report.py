"""Makes tables and figures of an experiment from its rows alone: ``python -m common report ROWS.csv``."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError, MissingDataError
from ..figures import draw_bars, draw_learning_curves
from ..metrics.segmentation import MM, PIXELS, metric_title
from ..runtime.files import write_atomically, write_csv
from .rows import COLUMNS
from .summary import SUMMARY, summarize_rows

logger = logging.getLogger(__name__)

UNIT = f"{MM}, of pictures {PIXELS}"
"""Unit of distances; rows of experiments do not tell which of both."""

HEADER = ("labeled", "dose", "arm", "mean", "whole", "n", "runs", "difference", "p", "p_t")


def write_report(
    rows_file: str | Path,
    into: str | Path | None = None,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = ("dsc",),
    over: str | None = None,
    mark: float | None = None,
) -> None:
    """Writes the tables and figures of an experiment from its rows.

    ``summary.csv`` has all metrics; ``tables.md`` a table for each data set and metric;
    ``per_class_*.png`` the Dice of every class; ``curve_*.png`` the metrics over labels and over a swept setting.

    Args:
        rows_file: CSV of an experiment, in the long format.
        into: Folder of the report; by default one beside the rows, with the name of their file.
        reference: Arm that others are tested against; by default the first in the rows.
        metrics: Metrics of ``tables.md`` and of the curves. Default ``dsc`` alone.
        over: Metric whose mean places the points of the curves over a swept setting, such as the ratio that a
            setting led to. Default none: the setting itself.
        mark: Place on that axis to mark by a line. Default none.

    Raises:
        MissingDataError: When there are no such rows.
        ConfigError: When the reference is none of the arms, or no run has a metric.
        OutputError: When a file cannot be written.
    """
    rows = load_rows(rows_file)
    arms, chosen = rows["arm"].unique().tolist(), [metrics] if isinstance(metrics, str) else list(metrics)
    if reference is not None and reference not in arms:
        raise ConfigError(f"reference is {reference!r}; accepted are the arms {', '.join(arms)}")
    table = summarize_rows(rows, reference or arms[0])
    _check_metrics("metrics", chosen, table["metric"].unique())
    if over is not None:
        groups = [group["metric"].unique() for _, group in table.groupby("dataset")]
        _check_metrics("over", [over], [name for name in groups[0] if all(name in group for group in groups)])
    folder = Path(into) if into else Path(rows_file).with_suffix("")
    write_csv(table.to_dict("records"), SUMMARY, folder / "summary.csv")
    text = _tables(table, chosen, reference or arms[0])
    with write_atomically(folder / "tables.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        logger.info("%s", line)
    for name, cells in table.groupby("dataset", sort=False):
        _draw_classes(cells, folder, _file_name(name))
        _draw_curves(cells, "labeled", chosen, folder / f"curve_labeled_{_file_name(name)}.png")
        _draw_curves(cells, "dose", chosen, folder / f"curve_dose_{_file_name(name)}.png", over=over, mark=mark)
    logger.info("report written to %s", folder)


def _check_metrics(option: str, names: Sequence[str], accepted: Sequence[str]) -> None:
    unknown = [name for name in names if name not in accepted]
    if unknown:
        raise ConfigError(f"{option} names {unknown[0]!r}; accepted are {', '.join(accepted)}")


def load_rows(path: str | Path) -> pd.DataFrame:
    """Returns the rows of an experiment: texts, as they are written, but for ``value``, a number.

    Raises:
        MissingDataError: When there is no such file, a column is missing, or there are no rows.
    """
    if not Path(path).is_file():
        raise MissingDataError(f"no rows at {path}; give the CSV that an experiment wrote")
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [name for name in COLUMNS if name not in rows]
    if missing or rows.empty:
        raise MissingDataError(
            f"{path} has {f'no column {missing[0]!r}' if missing else 'no rows'}; give the CSV that an experiment wrote"
        )
    return rows.assign(value=pd.to_numeric(rows["value"]))


def _tables(table: pd.DataFrame, metrics: Sequence[str], reference: str) -> str:
    """The tables in Markdown, one for each data set and metric."""
    parts = []
    for (dataset, metric), cells in table[table["metric"].isin(metrics)].groupby(["dataset", "metric"], sort=False):
        shown = [name for name in HEADER if name not in ("labeled", "dose") or cells[name].any()]
        lines = [[_cell(line, name) for name in shown] for line in cells.to_dict("records")]
        titles = {"difference": f"median difference to {reference} [95 %]", "p": "p (Holm)", "p_t": "p (t-test)"}
        titles |= {"dose": _swept(cells)}
        titles |= {"mean": "mean of patients (sd of seeds)", "whole": "whole test set", "n": "patients"}
        head = [[titles.get(name, name) for name in shown], ["---"] * len(shown)]
        parts.append(
            "\n".join(
                [
                    f"**{dataset}**, `{metric_title(metric, UNIT)}`:",
                    "",
                    *(f"| {' | '.join(line)} |" for line in head + lines),
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _cell(line: dict[str, Any], name: str) -> str:
    """A cell of a table."""
    if name == "mean":
        return "" if math.isnan(line["mean"]) else f"{line['mean']:.3f} ({line['sd_of_seeds']:.3f})"
    if name == "difference":
        found = [line[key] for key in ("median_difference", "low", "high")]
        return "" if pd.isna(found[0]) else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)
    value = line["p_holm"] if name == "p" else line[name]
    return (
        f"{value:.3g}" if isinstance(value, float) and not math.isnan(value) else "" if pd.isna(value) else str(value)
    )


def _swept(cells: pd.DataFrame) -> str:
    """Name of the setting that was swept."""
    return next((name for name in cells["swept"] if name), "dose")


def _draw_classes(cells: pd.DataFrame, folder: Path, name: str) -> None:
    """The Dice of every class for every arm, a figure for each number of labels; doses are told apart by curves."""
    dices = cells[cells["metric"].str.startswith("dsc_")]
    for labeled, group in dices.groupby("labeled", sort=False):
        first = group[group["dose"] == group["dose"].iloc[0]]
        bars = first.pivot_table(index="metric", columns="arm", values="mean", sort=False, observed=True)
        labels = [metric.removeprefix("dsc_") for metric in bars.index]
        path = folder / f"per_class_{name}{f'_{_file_name(labeled)}' if labeled else ''}.png"
        draw_bars(labels, {arm: bars[arm].tolist() for arm in bars}, path, xlabel="class", ylabel="Dice")


def _draw_curves(
    cells: pd.DataFrame,
    axis: str,
    metrics: Sequence[str],
    path: Path,
    *,
    over: str | None = None,
    mark: float | None = None,
) -> None:
    """Metrics of every arm over the number of labels, or over the swept setting; nothing without two places."""
    known = cells[cells[axis] != ""]
    shown = known[known["metric"].isin(metrics)]
    if shown[axis].nunique() < 2 or (not over and pd.to_numeric(shown[axis], errors="coerce").isna().any()):
        # A setting whose values are words has a table alone.
        return
    other = next(name for name in ("labeled", "dose") if name != axis)
    places = _centers(known[known["metric"] == over]) if over else {}
    panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for (metric, value, arm), group in shown.groupby(["metric", other, "arm"], sort=False):
        spreads = group["sd_of_seeds"].fillna(0.0)
        where = [places[key] for key in _keys(group)] if over else group[axis].astype(float)
        points = sorted(zip(where, _means(group), spreads, strict=True))
        panels.setdefault(metric_title(metric, UNIT), {})[f"{arm}, {value}" if value else arm] = points
    xlabel = "labeled" if axis == "labeled" else metric_title(over, UNIT) if over else _swept(shown)
    draw_learning_curves(panels, path, xlabel=xlabel, mark=mark)


def _means(cells: pd.DataFrame) -> pd.Series:
    """The mean of patients, or what was measured of the whole test set alone."""
    return cells["mean"].fillna(cells["whole"])


def _keys(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """What tells the cells of one metric apart."""
    return list(zip(cells["labeled"], cells["dose"], cells["arm"], strict=True))


def _centers(cells: pd.DataFrame) -> dict[tuple[str, ...], float]:
    """The mean of a metric by the cell that it belongs to."""
    return dict(zip(_keys(cells), _means(cells), strict=True))


def _file_name(text: Any) -> str:
    return re.sub(r"[^\w.+-]+", "_", str(text))
