"""Summarizes and compares values of cases: means, rank correlation, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr, wilcoxon


def summarize(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns mean, standard deviation (population) and number of the values that exist; NaN is left out."""
    finite = np.array([value for value in values if not math.isnan(value)], dtype=float)
    if not finite.size:
        return {"mean": None, "std": None, "n": 0}
    return {"mean": float(finite.mean()), "std": float(finite.std()), "n": int(finite.size)}


def spearman(first: ArrayLike, second: ArrayLike) -> dict[str, float | int | None]:
    """Returns Spearman's rank correlation of two lists, its p value and the number of pairs without NaN.

    ``rho`` and ``p`` are ``None`` where fewer than two different values exist on either side.
    """
    pairs = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if min(len(np.unique(values)) for values in pairs) < 2:
        return {"rho": None, "p": None, "n": pairs.shape[1]}
    result = spearmanr(*pairs)
    return {"rho": float(result.statistic), "p": float(result.pvalue), "n": pairs.shape[1]}


def signed_rank(first: ArrayLike, second: ArrayLike) -> dict[str, float | int | None]:
    """Returns Wilcoxon's signed-rank test of paired values, two-sided.

    Args:
        first: of every case; NaN where a case has none.
        second: of the same cases.

    Returns:
        ``n``, the pairs without NaN; ``first`` and ``second``, their means; ``difference`` of the means; and ``p``, 1
        where no pair differs. All but ``n`` are ``None`` without a pair.
    """
    pairs = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    if not pairs.shape[1]:
        return {"n": 0, "first": None, "second": None, "difference": None, "p": None}
    changes = pairs[0] - pairs[1]
    p = float(wilcoxon(changes).pvalue) if changes.any() else 1.0
    means = pairs.mean(axis=1)
    figures = {"first": float(means[0]), "second": float(means[1]), "difference": float(changes.mean()), "p": p}
    return {"n": pairs.shape[1]} | figures
