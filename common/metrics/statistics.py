"""Summarizes and compares values of cases: means, rank correlation, paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr, ttest_1samp, wilcoxon


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
        first: One value for each case; NaN where there is none.
        second: Values of the same cases, in the same order.

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


def paired_t(changes: ArrayLike) -> float | None:
    """Returns the p value of the paired t-test, two-sided.

    Args:
        changes: Differences ``(N,)`` of the pairs, without NaN.

    Returns:
        1 where no pair differs; ``None`` with less than two pairs, or where all differ by the same.

    Example:
        >>> round(paired_t([0.1, 0.2, 0.3, 0.2]), 4)
        0.0163
    """
    found = np.asarray(changes, dtype=float)
    if not found.any():
        return 1.0
    return None if np.allclose(found, found[0]) else float(ttest_1samp(found, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for the number of tests, so that all false positives together stay below the level.

    Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 1979.

    Args:
        p_values: One for each test, in [0, 1].

    Returns:
        Corrected values in the order given, at most 1. The k-th smallest of m is multiplied by ``m - k + 1``; none is
        below that of a smaller one.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors).clip(max=1)
    return [float(corrected[place]) for place in np.argsort(order)]


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Callable[..., Any] = np.median,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the median, or of another statistic.

    Args:
        values: Values ``(N,)`` without NaN, such as differences of patients.
        statistic: Function that takes samples and ``axis``, such as ``numpy.mean``. Default ``numpy.median``.
        level: Share of the drawn values inside the interval, in (0, 1). Default 0.95.
        draws: Number of samples of size N that are drawn with replacement. Default 2000.
        seed: Seed of the generator that draws them; the same seed gives the same interval. Default 0.

    Returns:
        Lower and upper end; both NaN without a value.
    """
    found = np.asarray(values, dtype=float)
    if not found.size:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).choice(found, (draws, found.size))
    low, high = np.quantile(statistic(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare_pairs(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> dict[str, float | int | None]:
    """Returns how much higher the first of paired values are: median difference, its interval and a paired test.

    Args:
        first: One value for each patient; NaN where there is none.
        second: Values of the same patients, in the same order.
        seed: Seed of the bootstrap, see :func:`bootstrap_interval`. Default 0.

    Returns:
        ``n``, the pairs without NaN; ``median_difference``, its 95 % bootstrap interval from ``low`` to ``high``,
        ``p`` of :func:`signed_rank`, and ``p_t`` of :func:`paired_t`. All but ``n`` are ``None`` without a pair.
    """
    test = signed_rank(first, second)
    changes = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    changes = changes[~np.isnan(changes)]
    if not changes.size:
        return {"n": 0, "median_difference": None, "low": None, "high": None, "p": None, "p_t": None}
    low, high = bootstrap_interval(changes, seed=seed)
    tests = {"p": test["p"], "p_t": paired_t(changes)}
    return {"n": test["n"], "median_difference": float(np.median(changes)), "low": low, "high": high} | tests
