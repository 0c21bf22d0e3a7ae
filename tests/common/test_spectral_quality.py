"""The prediction of Dice: monotone, and a lower bound that keeps its promise on scans it was not fitted to."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.errors import ConfigError
from common.runtime.bank_rules import check_curve
from common.spectral import QualityCurve
from common.spectral.quality import conformal_quantile, fit_margins, patients_needed


def draw(rng, patients, scans=9, spread=0.05):
    """OODM, Dice and patient of scans; those of one patient have something in common."""
    owners = np.repeat(np.arange(patients), scans)
    oodm = rng.gamma(2.0, 1.0, len(owners))
    own = rng.normal(0.0, spread, patients)[owners]
    return oodm, np.clip(0.9 - 0.12 * oodm + own + rng.normal(0.0, spread, len(owners)), 0.0, 1.0), owners


def fitted(**settings):
    return QualityCurve.fit(*draw(np.random.default_rng(0), 40), **settings)


def test_curve_never_rises_and_its_bound_neither():
    curve = fitted()
    check_curve(*(getattr(curve, name).tolist() for name in ("score", "dice", "edges", "margins")), curve.coverage)
    pairs = np.array([curve.expect(oodm) for oodm in np.linspace(0.0, 1.2 * curve.score[-1], 400)])
    assert (np.diff(pairs, axis=0) <= 1e-12).all()
    assert (pairs[:, 1] <= pairs[:, 0]).all()
    assert pairs.min() >= 0.0
    assert_allclose(pairs[40, 0], 0.9 - 0.12 * np.linspace(0.0, 1.2 * curve.score[-1], 400)[40], atol=0.08)


def test_above_the_highest_oodm_nothing_is_promised():
    curve = fitted()
    expected, low = curve.expect(curve.score[-1] + 1e-6)
    assert (expected, low) == (curve.dice[-1], 0.0)
    assert curve.score[-1] == draw(np.random.default_rng(0), 40)[0].max()


@pytest.mark.parametrize(("coverage", "patients"), [(0.5, 10), (0.8, 10), (0.9, 10), (0.9, 24)])
def test_promised_share_of_new_patients_reaches_the_bound(coverage, patients):
    rng, reached = np.random.default_rng(1), []
    for _ in range(100):
        curve = QualityCurve.fit(*draw(rng, patients), coverage=coverage)
        oodm, dice, _ = draw(rng, 20, scans=1)
        reached += [value >= curve.expect(score)[1] for score, value in zip(oodm, dice, strict=True)]
    error = 3 * math.sqrt(coverage * (1 - coverage) / 100 / 20)
    assert np.mean(reached) >= coverage - error
    # No promise is kept by bounds that say nothing.
    assert np.mean(reached) < 1.0


def test_order_of_the_scans_does_not_matter():
    oodm, dice, owners = draw(np.random.default_rng(0), 12)
    order = np.random.default_rng(1).permutation(len(oodm))
    first = QualityCurve.fit(oodm, dice, owners, coverage=0.5)
    second = QualityCurve.fit(oodm[order], dice[order], owners[order], coverage=0.5)
    for name, array in first.content().items():
        assert_allclose(second.content()[name], array, rtol=1e-12)


def test_scan_without_a_dice_counts_nowhere():
    oodm, dice, owners = draw(np.random.default_rng(0), 12)
    more = np.append(oodm, 99.0), np.append(dice, math.nan), np.append(owners, 77)
    assert QualityCurve.fit(*more).score[-1] == oodm.max()


@pytest.mark.parametrize("patients", [0, 1, 3])
def test_too_few_patients_give_no_curve(patients):
    assert QualityCurve.fit(*draw(np.random.default_rng(0), patients)) is None


def test_too_few_patients_for_the_promise_give_a_bound_of_zero():
    few, enough = (QualityCurve.fit(*draw(np.random.default_rng(0), number)) for number in (8, 9))
    assert (few.margins.tolist(), few.expect(1.0)[1]) == ([1.0], 0.0)
    assert enough.margins.max() < 0.5
    assert [patients_needed(coverage) for coverage in (0.9, 0.5, 0.95)] == [9, 1, 19]


def test_ranges_of_oodm_have_margins_of_their_own():
    oodm, owners = np.linspace(0.0, 3.0, 300), np.arange(300)
    missing = np.where(oodm < 1.0, 0.01, np.where(oodm < 2.0, 0.1, 0.3))
    edges, margins = fit_margins(oodm, missing, owners, 0.9)
    assert_allclose(edges, [1.0, 2.0], atol=0.02)
    assert_allclose(margins, [0.01, 0.1, 0.3])


def test_quantile_is_that_of_ranks_and_of_patients():
    values = np.arange(9.0)
    assert conformal_quantile(values, np.arange(9), 0.9) == 8.0
    assert conformal_quantile(values, np.arange(9), 0.5) == 4.0
    assert conformal_quantile(values[:8], np.arange(8), 0.9) == math.inf
    # Three patients of three values: 0.5 * 4 patients are reached with the sixth value.
    assert conformal_quantile(values, np.repeat([0, 1, 2], 3), 0.5) == 5.0


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, math.nan, "x"])
def test_coverage_out_of_its_range_is_refused(coverage):
    with pytest.raises(ConfigError, match=r"coverage is .*; accepted are numbers above 0 and below 1"):
        fitted(coverage=coverage)
