"""Sums up rows of results: means over patients, and paired tests of every arm against a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..metrics.statistics import compare_pairs, holm

CELL = ["dataset", "labeled", "swept", "dose", "arm"]
"""What runs are summed up over seeds and folds by."""

TESTED = ("n_pairs", "median_difference", "low", "high", "p", "p_holm", "p_t")
SUMMARY = (*CELL, "metric", "mean", "sd_of_seeds", "n", "runs", "whole", *TESTED)
"""Columns of a summary, see :func:`summarize_rows`."""


def summarize_rows(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Returns a line for every data set, number of labels, dose, arm and metric, in the order of the rows.

    A patient counts once, with the mean over seeds. ``mean`` is over patients, ``n`` of them; ``sd_of_seeds`` is the
    standard deviation (population) of the means of the seeds; ``runs`` counts seeds and folds; ``whole`` is the measure
    of the whole test set, as mean over runs. Then Wilcoxon's signed-rank test over patients against the reference, with
    Holm's correction over the arms of one data set, number of labels and metric; ``p_t`` is that of the paired t-test,
    without correction.

    Args:
        rows: Rows with the columns of ``experiments.rows.COLUMNS``; all are texts but ``value``, a number.
        reference: Arm that others are tested against, at the same dose. It is tested itself against its first dose.
    """
    cells = [*CELL, "metric"]
    cases = rows[rows["case"] != ""]
    patients = cases.groupby([*cells, "case"], sort=False)["value"].mean()
    groups = {name: values.droplevel(cells) for name, values in patients.groupby(cells, sort=False)}
    seeds = cases.groupby([*cells, "seed"])["value"].mean().groupby(cells).std(ddof=0).to_dict()
    whole = rows[rows["case"] == ""].groupby(cells)["value"].mean().to_dict()
    lines: list[dict[str, Any]] = []
    for cell, members in rows.groupby(cells, sort=False):
        line = dict(zip(cells, cell, strict=True)) | {"runs": len(members[["seed", "fold"]].drop_duplicates())}
        line |= {"sd_of_seeds": seeds.get(cell, math.nan), "whole": whole.get(cell, math.nan)}
        found = groups.get(cell)
        line |= {"mean": math.nan, "n": 0} if found is None else {"mean": found.mean(), "n": len(found)}
        lines.append(line | _compare(cell, groups, reference))
    table = pd.DataFrame(lines, columns=list(SUMMARY))
    for _, tested in table[table["p"].notna()].groupby(["dataset", "labeled", "metric"]):
        table.loc[tested.index, "p_holm"] = holm(tested["p"].tolist())
    return table


def _compare(cell: Any, groups: Mapping[Any, Any], reference: str) -> dict[str, Any]:
    """The test of a cell against its reference; nothing where there is none."""
    dataset, labeled, swept, dose, arm, metric = cell
    if arm == reference:
        # The first dose is what the others are tested against.
        dose = next((key[3] for key in groups if (*key[:3], *key[4:]) == (dataset, labeled, swept, arm, metric)), dose)
    other = (dataset, labeled, swept, dose, reference, metric)
    if other == cell or not {cell, other} <= groups.keys():
        return {}
    pairs = pd.concat([groups[cell], groups[other]], axis=1, join="inner")
    test = compare_pairs(pairs.iloc[:, 0], pairs.iloc[:, 1])
    return {"n_pairs": test.pop("n")} | test
