"""Runs compared case by case: which segments better, class by class, and how sure that is."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cases import class_name
from ..errors import MissingDataError
from ..figures import draw_bars
from ..metrics.statistics import signed_rank
from ..runtime.files import write_csv, write_json
from ..runtime.sparing import sparing

logger = logging.getLogger(__name__)

COMPARED = ("dsc", "assd")
MEAN = "mean"
"""What stands in place of a class where a case's classes are averaged."""

Scores = dict[str, dict[str, dict[str, float]]]
"""Case -> class -> ``dsc``, ``assd`` and ``share``; NaN where there is none."""


def read_scores(folder: str | Path) -> Scores:
    """Returns what an evaluation found out about its labeled in-distribution cases, with their means over classes.

    Args:
        folder: ``output_dir`` of an evaluation.

    Raises:
        MissingDataError: when the folder holds no results of an evaluation.
    """
    file = Path(folder) / "cases.csv"
    if not file.is_file():
        raise MissingDataError(f"compare_with {folder} holds no cases.csv; give the output_dir of an evaluation")
    scores: Scores = {}
    with open(file, newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            if row["channel"] and row["in_distribution"] != "False":
                values = {name: float(row.get(name) or "nan") for name in (*COMPARED, "share")}
                scores.setdefault(row["case"], {})[row["channel"]] = values
    for classes in scores.values():
        classes[MEAN] = {name: _mean([values[name] for values in classes.values()]) for name in COMPARED}
    return scores


def compare_scores(first: Scores, second: Scores) -> list[dict[str, Any]]:
    """Returns :func:`signed_rank` for every metric and class over the cases that both have.

    Returns:
        One row for each metric and class, first the mean over classes: ``metric``, ``class`` and the figures.
    """
    cases = [case for case in first if case in second]
    names = {name for case in cases for name in first[case] if name in second[case]}
    ordered = sorted(names, key=lambda name: (name != MEAN, name.zfill(9)))
    rows = []
    for metric in COMPARED:
        for name in ordered:
            sides = [[scores[case].get(name, {}).get(metric, math.nan) for case in cases] for scores in (first, second)]
            rows.append({"metric": metric, "class": name} | signed_rank(*sides))
    return rows


def class_shares(scores: Scores) -> dict[str, float]:
    """Returns the mean share of voxels of each class, the smallest first."""
    shares: dict[str, list[float]] = {}
    for classes in scores.values():
        for name, values in classes.items():
            if name != MEAN:
                shares.setdefault(name, []).append(values["share"])
    return dict(sorted(((name, _mean(values)) for name, values in shares.items()), key=lambda item: item[1]))


class RunComparison:
    """Compares the evaluation that was just written with earlier ones; writes a table and the Dice of every class.

    Args:
        output_dir: of this evaluation; ``comparison.csv``, ``comparison.json`` and ``dice_per_class.png`` go there.
        compare_with: name of a run -> ``output_dir`` of its evaluation, or such folders, named by their last part.
        cases: of this evaluation, for the names of classes.
        foreground_labels: data set -> classes that count, in order; for their names.
    """

    def __init__(
        self,
        output_dir: str,
        compare_with: Mapping[str, str] | Sequence[str] | str | None = None,
        *,
        cases: Sequence[Mapping[str, Any]] = (),
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.cases, self.foreground_labels = list(cases), dict(foreground_labels or {})
        folders = [compare_with] if isinstance(compare_with, str) else compare_with or {}
        self.others = dict(folders) if isinstance(folders, Mapping) else {Path(name).name: name for name in folders}

    def run(self) -> list[dict[str, Any]]:
        """Returns the rows of the table.

        Raises:
            MissingDataError: when a folder holds no evaluation, or one of other cases.
        """
        own = read_scores(self.output_dir)
        others = {name: read_scores(folder) for name, folder in self.others.items()}
        rows: list[dict[str, Any]] = []
        for name, scores in others.items():
            if not own.keys() & scores.keys():
                raise MissingDataError(
                    f"compare_with {self.others[name]} has none of this evaluation's {len(own)} labeled case(s); "
                    "evaluate both runs on the same cases"
                )
            rows += [{"run": name} | row for row in compare_scores(own, scores)]
        if rows:
            write_csv(rows, list(rows[0]), self.output_dir / "comparison.csv")
            write_json({"rows": rows}, self.output_dir / "comparison.json")
            for row in rows:
                logger.info("this run against %(run)s, %(metric)s, class %(class)s: p = %(p)s (n = %(n)d)", row)
        if own:
            self._draw({"this run": own} | others)
        return rows

    @sparing("dice_per_class.png")
    def _draw(self, runs: Mapping[str, Scores]) -> None:
        """Dice of every class for every run, the rarest class first."""
        shares = class_shares(next(iter(runs.values())))
        labels = [
            f"{class_name(self.cases, int(name), self.foreground_labels)}\n{share:.2%}"
            for name, share in shares.items()
        ]
        bars = {
            run: [_mean([classes[name]["dsc"] for classes in scores.values() if name in classes]) for name in shares]
            for run, scores in runs.items()
        }
        draw_bars(
            labels, bars, self.output_dir / "dice_per_class.png", xlabel="class and its share of voxels", ylabel="Dice"
        )


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that exist, NaN without any."""
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan
