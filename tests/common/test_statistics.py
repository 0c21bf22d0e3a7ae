"""Corrections and intervals, against definitions written out."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_rel, wilcoxon

from common.metrics.statistics import bootstrap_interval, compare_pairs, holm, paired_t


def holm_step_by_step(p_values):
    """Holm's own procedure: the smallest corrected level at which a test is rejected."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = {}, 0.0
    for rank, place in enumerate(order):
        highest = max(highest, p_values[place] * (len(p_values) - rank))
        corrected[place] = min(1.0, highest)
    return [corrected[place] for place in range(len(p_values))]


@pytest.mark.parametrize("p_values", [[], [0.2], [0.01, 0.04, 0.03], [0.5, 0.5, 0.9], [0.04, 0.01, 0.01, 0.6]])
def test_holm_is_the_step_down_procedure(p_values):
    assert holm(p_values) == pytest.approx(holm_step_by_step(p_values))


def test_holm_of_many():
    p_values = np.random.default_rng(0).uniform(size=40).tolist()
    corrected = holm(p_values)
    assert corrected == pytest.approx(holm_step_by_step(p_values))
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))


def test_interval_is_that_of_scipy():
    values = np.random.default_rng(1).normal(0.3, 1, 25)
    low, high = bootstrap_interval(values, draws=20000)
    other = bootstrap((values,), np.median, n_resamples=20000, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx(tuple(other), abs=0.03)
    assert low < np.median(values) < high
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_interval_depends_on_its_seed_alone():
    values = [0.1, 0.5, 0.2, 0.9]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, draws=10) != bootstrap_interval(values, draws=10, seed=1)
    assert bootstrap_interval([0.4, 0.4]) == (0.4, 0.4)
    assert all(math.isnan(end) for end in bootstrap_interval([]))


def test_pairs_are_compared_where_both_are():
    first, second = [0.9, 0.8, math.nan, 0.7, 0.6], [0.5, 0.7, 0.1, 0.5, math.nan]
    found = compare_pairs(first, second)
    assert found["n"] == 3
    assert found["median_difference"] == pytest.approx(0.2)
    assert found["p"] == pytest.approx(wilcoxon([0.4, 0.1, 0.2]).pvalue)
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.4))
    assert found["p_t"] == pytest.approx(ttest_rel([0.9, 0.8, 0.7], [0.5, 0.7, 0.5]).pvalue)


def test_nothing_is_said_of_no_pair():
    nothing = dict.fromkeys(["median_difference", "low", "high", "p", "p_t"])
    assert compare_pairs([math.nan], [0.5]) == {"n": 0} | nothing


def test_t_test_says_nothing_where_all_pairs_differ_by_the_same():
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.3 - 0.1, 0.2, 0.9 - 0.7]) is None
    assert paired_t([0.5]) is None
