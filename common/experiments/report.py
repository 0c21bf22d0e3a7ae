"""Makes tables and figures of an experiment from its rows alone: ``python -m common report ROWS.csv``."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError, MissingDataError
from ..figures import draw_bars, draw_learning_curves
from ..metrics.segmentation import metric_title
from ..runtime.files import write_atomically, write_csv
from .rows import COLUMNS
from .summary import SUMMARY, is_class_dice, summarize_rows, with_ious
from .tables import UNIT, fold_tables, summary_tables, swept_setting

logger = logging.getLogger(__name__)


def write_report(
    rows_file: str | Path,
    into: str | Path | None = None,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = ("dsc",),
    over: str | None = None,
    mark: float | None = None,
    by_fold: bool = False,
) -> None:
    """Writes the tables and figures of an experiment from its rows.

    ``summary.csv`` has all metrics, IoU among them; ``tables.md`` a table for each data set and metric;
    ``per_class_*.png`` the Dice of every class; ``curve_*.png`` the metrics over labels and over a swept setting, with
    bootstrap intervals over patients.

    Args:
        rows_file: CSV of an experiment, in the long format.
        into: Folder of the report; by default one beside the rows, with the name of their file.
        reference: Arm that others are tested against; by default the first in the rows.
        metrics: Metrics of ``tables.md`` and of the curves. Default ``dsc`` alone.
        over: Metric whose mean places the points of the curves over a swept setting, such as the ratio that a
            setting led to. Default none: the setting itself.
        mark: Place on that axis to mark by a line. Default none.
        by_fold: Whether ``tables.md`` also has what was measured of the whole test set of every fold. Default false.

    Raises:
        MissingDataError: When there are no such rows.
        ConfigError: When the reference is none of the arms, or no run has a metric.
        OutputError: When a file cannot be written.
    """
    rows = with_ious(load_rows(rows_file))
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
    text = summary_tables(table, chosen, reference or arms[0]) + (fold_tables(rows, chosen) if by_fold else "")
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


def _draw_classes(cells: pd.DataFrame, folder: Path, name: str) -> None:
    """The Dice of every class for every arm, a figure for each number of labels; doses are told apart by curves."""
    dices = cells[is_class_dice(cells["metric"])]
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
    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for (metric, value, arm), group in shown.groupby(["metric", other, "arm"], sort=False):
        where = [places[key] for key in _keys(group)] if over else group[axis].astype(float)
        means = _means(group)
        ends = [group[name].fillna(means) for name in ("mean_low", "mean_high")]
        points = sorted(zip(where, means, *ends, strict=True))
        panels.setdefault(metric_title(metric, UNIT), {})[f"{arm}, {value}" if value else arm] = points
    xlabel = "labeled" if axis == "labeled" else metric_title(over, UNIT) if over else swept_setting(shown)
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
