"""Makes tables and figures of a comparison of detectors from its rows: ``python -m common detection ROWS.csv``."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import MissingDataError
from ..figures import draw_named_points, draw_table
from ..metrics.detection import average_precision, detection_metrics, expected_performance_drop
from ..metrics.statistics import spearman
from ..runtime.files import write_atomically, write_csv
from . import rows as long_format
from .report import load_rows

logger = logging.getLogger(__name__)

COLUMNS = (*long_format.COLUMNS, "group", "in_distribution")
"""Columns of the rows: ``arm`` is the detector, ``group`` what a case belongs to, ``in_distribution`` true or false."""

SEGMENTATION = "segmentation"
"""Arm of the rows that tell the Dice of the judged network and what segmenting alone costs."""

TRAINING = "training"
"""Group of the training cases, whose rows hold scores by rules that were fitted without them."""

DROP = 0.05
"""Fall of the mean Dice from which on a group must be found."""

GROUP_COLUMNS = ("dataset", "arm", "group", "n", "auc", "aupr", "fpr_at_95_tpr", "sensitivity", "specificity",
                 "mean_dsc", "dsc_drop")  # fmt: skip
DETECTOR_COLUMNS = ("dataset", "arm", "mean_auc", "worst_auc", "worst_auc_where_dsc_falls", "mean_aupr",
                    "mean_fpr_at_95_tpr", "mean_sensitivity", "specificity", "false_alarms", "n_in_distribution",
                    "spearman_dsc", "epd", "epd_without_detector", "seconds_per_scan", "times_segmentation",
                    "megabytes_per_scan", "threshold")  # fmt: skip

Line = dict[str, Any]


def write_detection_report(*rows_files: str | Path, into: str | Path | None = None) -> None:
    """Writes tables and figures of detectors from rows, which may come from several comparisons.

    ``groups.csv`` has a line for each data set, detector and out-of-distribution group, ``detectors.csv`` one for each
    data set and detector, ``tables.md`` both as tables. ``finds_*.png`` shows who finds what, ``ranks_*.png`` who ranks
    scans by quality, ``costs_*.png`` at what cost.

    Args:
        *rows_files: CSV files of rows in long format, one or more.
        into: Folder of the report; by default one beside the first file, with its name.

    Raises:
        MissingDataError: When there are no such rows.
        OutputError: When a file cannot be written.
    """
    if not rows_files:
        raise MissingDataError("no file of rows is given; give the CSV that a comparison of detectors wrote")
    rows = pd.concat([_load(path) for path in rows_files], ignore_index=True)
    folder = Path(into) if into else Path(rows_files[0]).with_suffix("")
    groups, detectors, parts = [], [], []
    for dataset, members in rows.groupby("dataset", sort=False):
        judged = [_judge(str(dataset), str(arm), members) for arm in members["arm"].unique() if arm != SEGMENTATION]
        of_groups, of_detectors = [line for found, _ in judged for line in found], [line for _, line in judged]
        name = re.sub(r"[^\w.+-]+", "_", str(dataset))
        parts.append(_tables(str(dataset), of_groups, of_detectors))
        _draw(of_groups, of_detectors, folder, name)
        groups += of_groups
        detectors += of_detectors
    write_csv(groups, GROUP_COLUMNS, folder / "groups.csv")
    write_csv(detectors, DETECTOR_COLUMNS, folder / "detectors.csv")
    text = "\n".join(parts)
    with write_atomically(folder / "tables.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        logger.info("%s", line)


def _load(path: str | Path) -> pd.DataFrame:
    """Rows of a file, which must tell groups."""
    rows = load_rows(path)
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise MissingDataError(f"{path} has no column {missing[0]!r}; give the CSV of a comparison of detectors")
    return rows.assign(inside=rows["in_distribution"].str.lower() == "true")


def _judge(dataset: str, arm: str, rows: pd.DataFrame) -> tuple[list[Line], Line]:
    """The lines of a detector: one for each out-of-distribution group, and one for all."""
    own = rows[rows["arm"] == arm]
    cases = own[(own["metric"] == "score") & (own["group"] != TRAINING)].set_index(["group", "case"])
    dice = _dice(rows, arm).reindex(cases.index)
    single = own[own["case"] == ""].set_index("metric")["value"]
    threshold = float(single.get("threshold", math.nan))
    inside = cases["value"][cases["inside"]].to_numpy()
    reference = float(dice[cases["inside"]].mean())
    lines = []
    for group, members in cases[~cases["inside"]].groupby(level="group", sort=False):
        scores = members["value"].to_numpy()
        found = detection_metrics(inside, scores, threshold) | {"aupr": average_precision(inside, scores)}
        mean = float(dice.loc[members.index].mean())
        lines.append({"dataset": dataset, "arm": arm, "group": group, "n": len(scores), **found}
                     | {"mean_dsc": mean, "dsc_drop": reference - mean})  # fmt: skip
    line: Line = {"dataset": dataset, "arm": arm, "threshold": threshold, "n_in_distribution": len(inside)}
    line |= _overall(lines) | _quality(cases, dice, reference) | _costs(rows, single)
    false_alarms = float((inside > threshold).mean()) if len(inside) else math.nan
    return lines, line | {"false_alarms": false_alarms, "specificity": 1 - false_alarms}


def _dice(rows: pd.DataFrame, arm: str) -> pd.Series:
    """Dice of every case: of the detector's own network where it has one."""
    dice = rows[rows["metric"] == "dsc"]
    source = arm if (dice["arm"] == arm).any() else SEGMENTATION
    return dice[dice["arm"] == source].set_index(["group", "case"])["value"]


def _overall(lines: Sequence[Line]) -> Line:
    """Means over the groups, and the worst of them."""
    if not lines:
        return {}
    falls = [line["auc"] for line in lines if line["dsc_drop"] >= DROP]
    means = {f"mean_{name}": float(np.mean([line[name] for line in lines]))
             for name in ("auc", "aupr", "fpr_at_95_tpr", "sensitivity")}  # fmt: skip
    worst = {"worst_auc": min(line["auc"] for line in lines)}
    return means | worst | {"worst_auc_where_dsc_falls": min(falls, default=math.nan)}


def _quality(cases: pd.DataFrame, dice: pd.Series, reference: float) -> Line:
    """How well scores tell the quality of scans: rank correlation over all, and the drop that slips through."""
    rho = spearman(cases["value"], dice)["rho"]
    line: Line = {"spearman_dsc": math.nan if rho is None else rho}
    judged = cases[~cases["inside"] & dice.notna()]
    if judged.empty or math.isnan(reference):
        return line
    inside = cases["value"][cases["inside"]]
    lost = dice.loc[judged.index]
    line["epd"] = expected_performance_drop(inside, judged["value"], lost, reference_dice=reference)
    return line | {"epd_without_detector": float((reference - lost).clip(lower=0).mean())}


def _costs(rows: pd.DataFrame, single: pd.Series) -> Line:
    """Seconds and megabytes of a scan, and how many times the segmentation alone the seconds are."""
    line = {name: float(single.get(name, math.nan)) for name in ("seconds_per_scan", "megabytes_per_scan")}
    plain = rows[(rows["arm"] == SEGMENTATION) & (rows["metric"] == "seconds_per_scan")]["value"]
    line["times_segmentation"] = line["seconds_per_scan"] / float(plain.iloc[0]) if len(plain) else math.nan
    return line


def _tables(dataset: str, groups: Sequence[Line], detectors: Sequence[Line]) -> str:
    """The tables of a data set in Markdown."""
    header, lines = _found(groups)
    shown = DETECTOR_COLUMNS[1:]
    parts = [f"## {dataset}", "", "AUC against the in-distribution test scans, higher is better:", ""]
    parts += [_markdown(header, lines), "", "All groups together:", ""]
    parts += [_markdown(list(shown), [[line.get(name, math.nan) for name in shown] for line in detectors]), ""]
    return "\n".join(parts)


def _found(groups: Sequence[Line]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of the table of AUC: the mean Dice of every group first, then a line for each detector."""
    names = list(dict.fromkeys(str(line["group"]) for line in groups))
    by_arm: dict[str, dict[str, Line]] = {}
    for line in groups:
        by_arm.setdefault(str(line["arm"]), {})[str(line["group"])] = line
    first: Mapping[str, Line] = next(iter(by_arm.values()), {})
    lines: list[list[Any]] = [["mean DSC", *(first[name]["mean_dsc"] for name in names)]]
    lines += [[arm, *(found[name]["auc"] for name in names)] for arm, found in by_arm.items()]
    return ["detector", *names], lines


def _markdown(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; nothing in the place of NaN."""
    table = [list(header), ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _draw(groups: Sequence[Line], detectors: Sequence[Line], folder: Path, name: str) -> None:
    """A figure for each question; nothing where rows do not answer it."""
    if groups:
        draw_table(*_found(groups), folder / f"finds_{name}.png")
    ranks = {line["arm"]: (line.get("epd", math.nan), -line["spearman_dsc"]) for line in detectors}
    costs = {line["arm"]: (line["times_segmentation"], line.get("mean_auc", math.nan)) for line in detectors}
    lost, rank = (
        "Dice lost to scans that pass (EPD, lower is better)",
        "rank correlation with 1 - Dice (higher is better)",
    )
    spent, mean = "time of a scan (1: the segmentation alone)", "mean AUC over all groups (higher is better)"
    figures = (("ranks", ranks, lost, rank, False), ("costs", costs, spent, mean, True))
    for kind, points, first, second, log_first in figures:
        drawn = {arm: point for arm, point in points.items() if np.isfinite(point).all()}
        if drawn:
            path = folder / f"{kind}_{name}.png"
            draw_named_points(drawn, path, first=first, second=second, log_first=log_first)
