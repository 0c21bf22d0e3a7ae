"""Sums up rows of results: means over patients, and paired tests of every arm against a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.statistics import bootstrap_interval, compare_pairs, holm

CELL = ["dataset", "labeled", "swept", "dose", "arm"]
"""What runs are summed up over seeds and folds by."""

TESTED = ("n_pairs", "median_difference", "low", "high", "p", "p_holm", "p_t")
SUMMARY = (*CELL, "metric", "mean", "mean_low", "mean_high", "sd_of_seeds", "n", "runs", "whole", *TESTED)
"""Columns of a summary, see :func:`summarize_rows`."""


OF_SEVERAL = ("dsc_rarest", "dsc_foreground")
"""Dices of several classes."""

BEST = "dsc_best"
"""What Dices at the best threshold begin with; the name of a score may follow."""


def is_class_dice(metrics: pd.Series) -> pd.Series:
    """Returns for every name of a metric whether it is the Dice of one class."""
    return metrics.str.startswith("dsc_") & ~metrics.isin(OF_SEVERAL) & ~metrics.str.startswith(BEST)


def with_ious(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns rows and, after them, ``iou_<class>`` for every Dice of a class, and ``iou``, their mean over classes.

    A Dice D of pixels that are added up over slices determines their intersection over union, D / (2 - D), so that
    experiments need not measure it.

    Args:
        rows: Rows with the columns of ``experiments.rows.COLUMNS``; all are texts but ``value``, a number.
    """
    dices = rows[is_class_dice(rows["metric"])]
    names = dices["metric"].str.replace("dsc_", "iou_", n=1)
    ious = dices.assign(metric=names, value=dices["value"] / (2 - dices["value"]))
    same = [name for name in rows.columns if name not in ("metric", "value")]
    means = ious.groupby(same, sort=False, as_index=False)["value"].mean().assign(metric="iou")
    return pd.concat([rows, ious, means[rows.columns]], ignore_index=True) if len(dices) else rows


def summarize_rows(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Returns a line for every data set, number of labels, dose, arm and metric, in the order of the rows.

    A patient counts once, with the mean over seeds. ``mean`` is over patients, ``n`` of them, with its bootstrap
    interval of 95 % from ``mean_low`` to ``mean_high``; ``sd_of_seeds`` is the standard deviation (population) of the
    means of the seeds; ``runs`` counts seeds and folds; ``whole`` is the measure of the whole test set, as mean over
    runs. Then Wilcoxon's signed-rank test over patients against the reference, each with its mean over the seeds that
    both have, with Holm's correction over all tests of one data set and metric: its arms, doses and numbers of labels;
    ``p_t`` is that of the paired t-test, without correction.

    Args:
        rows: Rows with the columns of ``experiments.rows.COLUMNS``; all are texts but ``value``, a number.
        reference: Arm that others are tested against, at the same dose, or at its first where it has not that dose. It
            is tested itself against its first dose.
    """
    cells = [*CELL, "metric"]
    cases = rows[rows["case"] != ""]
    patients = cases.groupby([*cells, "case"], sort=False)["value"].mean()
    groups = {name: values.droplevel(cells) for name, values in patients.groupby(cells, sort=False)}
    by_seed = cases.groupby([*cells, "case", "seed"], sort=False)["value"].mean()
    paired = {name: values.droplevel(cells) for name, values in by_seed.groupby(cells, sort=False)}
    seeds = cases.groupby([*cells, "seed"])["value"].mean().groupby(cells).std(ddof=0).to_dict()
    whole = rows[rows["case"] == ""].groupby(cells)["value"].mean().to_dict()
    lines: list[dict[str, Any]] = []
    for cell, members in rows.groupby(cells, sort=False):
        line = dict(zip(cells, cell, strict=True)) | {"runs": len(members[["seed", "fold"]].drop_duplicates())}
        line |= {"sd_of_seeds": seeds.get(cell, math.nan), "whole": whole.get(cell, math.nan)}
        found = groups.get(cell)
        line |= {"mean": math.nan, "n": 0} if found is None else _mean(found)
        lines.append(line | _compare(cell, paired, reference))
    table = pd.DataFrame(lines, columns=list(SUMMARY))
    for _, tested in table[table["p"].notna()].groupby(["dataset", "metric"]):
        table.loc[tested.index, "p_holm"] = holm(tested["p"].tolist())
    return table


def _mean(values: pd.Series) -> dict[str, Any]:
    """The mean over patients and its interval."""
    low, high = bootstrap_interval(values.dropna(), statistic=np.mean)
    return {"mean": values.mean(), "mean_low": low, "mean_high": high, "n": len(values)}


def _compare(cell: Any, groups: Mapping[Any, Any], reference: str) -> dict[str, Any]:
    """The test of a cell against its reference; nothing where there is none, or none with a seed of its own."""
    dataset, labeled, swept, dose, arm, metric = cell
    other = (dataset, labeled, swept, dose, reference, metric)
    if arm == reference or other not in groups:
        # Its first dose is what its other doses are tested against, and arms at doses that it was not run with.
        place = (dataset, labeled, swept, reference, metric)
        other = next((key for key in groups if (*key[:3], *key[4:]) == place), other)
    if other == cell or not {cell, other} <= groups.keys():
        return {}
    both = pd.concat([groups[cell], groups[other]], axis=1, join="inner").dropna()
    pairs = both.groupby("case", sort=False).mean()
    if pairs.empty:
        return {}
    test = compare_pairs(pairs.iloc[:, 0], pairs.iloc[:, 1])
    return {"n_pairs": test.pop("n")} | test
