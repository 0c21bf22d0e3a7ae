import time
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.covariance import LedoitWolf

from common.spectral.distance import distance_to, leave_one_out
from common.spectral.shrunk import LEAST_SHRINKAGE, LayeredGaussian, ShrunkGaussian, ledoit_wolf_shrinkage

SIZES = (4, 1, 3)


def draw(count, size=8, seed=0):
    """Correlated numbers of very different spreads."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) * np.geomspace(1e-3, 10, size) + 5


def slow_distance(row, reference):
    """Scaled by the spread, then scikit-learn's estimate, inverted."""
    spread = reference.std(axis=0)
    estimate = LedoitWolf().fit(reference / spread)
    return float(estimate.mahalanobis((row / spread)[None])[0]) ** 0.5


def slow_layers(row, reference):
    edges = np.cumsum((0, *SIZES))
    return np.array([slow_distance(row[a:b], reference[:, a:b]) for a, b in pairwise(edges)])


@pytest.mark.parametrize("count", [12, 60])
def test_shrinkage_is_that_of_scikit_learn(count):
    rows = draw(count)
    centered = rows - rows.mean(axis=0)
    (share,) = ledoit_wolf_shrinkage((centered**2).sum(axis=1)[None], (centered.T @ centered / count)[None], count)
    assert share == pytest.approx(LedoitWolf().fit(rows).shrinkage_, rel=1e-9)
    assert share > LEAST_SHRINKAGE


@pytest.mark.parametrize("count", [6, 40])
def test_leave_one_out_equals_a_fit_without_the_case(count):
    rows = draw(count)
    without = [np.delete(rows, case, axis=0) for case in range(count)]
    expected = [float(ShrunkGaussian.fit(rest).distance(row[None])[0]) for row, rest in zip(rows, without, strict=True)]
    by_layer = LayeredGaussian.fit(rows)
    assert_allclose(by_layer.leave_one_out * by_layer.scales, expected, rtol=1e-8)


@pytest.mark.parametrize("count", [12, 40])
def test_distances_equal_slow_ones_layer_by_layer(count):
    reference, others = draw(count), draw(5, seed=1)
    alone = np.array([slow_layers(row, np.delete(reference, case, axis=0)) for case, row in enumerate(reference)])
    scales = np.sqrt((alone**2).mean(axis=0))
    assert_allclose(
        leave_one_out(reference, "ledoit_wolf", SIZES), np.sqrt(((alone / scales) ** 2).mean(axis=1)), rtol=1e-6
    )
    expected = [float(np.sqrt(((slow_layers(row, reference) / scales) ** 2).mean())) for row in others]
    assert_allclose(distance_to(others, reference, "ledoit_wolf", SIZES), expected, rtol=1e-6)


def test_every_layer_counts_alike_however_long_it_is():
    reference = np.random.default_rng(0).normal(size=(200, 21))
    far = np.zeros((2, 21))
    far[0, :20], far[1, 20] = 4.0, 40.0
    both = LayeredGaussian.fit(reference, (20, 1))
    long, short = (LayeredGaussian.fit(part) for part in (reference[:, :20], reference[:, 20:]))
    assert_allclose(both.distance(far) ** 2 * 2, long.distance(far[:, :20]) ** 2 + short.distance(far[:, 20:]) ** 2)


def test_units_of_single_numbers_do_not_matter():
    reference, others = draw(20), draw(4, seed=1)
    factors = np.geomspace(0.1, 10, 8)
    plain = distance_to(others, reference, "ledoit_wolf", SIZES)
    # As long as no number counts as constant beside the others of its layer.
    reference, others = reference / reference.std(axis=0), others / reference.std(axis=0)
    assert_allclose(distance_to(others * factors, reference * factors, "ledoit_wolf", SIZES), plain, rtol=1e-6)


@pytest.mark.parametrize("count", [3, 4])
def test_few_cases_of_many_numbers_give_finite_distances(count):
    reference = draw(count, 30)
    assert np.isfinite(leave_one_out(reference, "ledoit_wolf")).all()
    near, far = distance_to(np.stack([reference.mean(axis=0), reference[0] + 100]), reference, "ledoit_wolf")
    assert near == 0.0
    assert far > 10


def test_numbers_that_never_change_give_finite_distances_and_show_a_change():
    reference = draw(20)
    reference[:, 2] = 1.0
    changed = reference[:1].copy()
    changed[0, 2] = 2.0
    same, other = distance_to(np.concatenate([reference[:1], changed]), reference, "ledoit_wolf")
    assert np.isfinite(leave_one_out(reference, "ledoit_wolf")).all()
    assert other > 10 * same
    constant = np.ones((5, 3))
    assert leave_one_out(constant, "ledoit_wolf").tolist() == [0.0] * 5
    assert np.isfinite(distance_to(constant[:1] + 1, constant, "ledoit_wolf")).all()


def test_order_of_cases_does_not_matter():
    reference = draw(15)
    assert_allclose(
        leave_one_out(reference[::-1], "ledoit_wolf", SIZES)[::-1], leave_one_out(reference, "ledoit_wolf", SIZES)
    )


def test_leave_one_out_of_many_cases_takes_seconds():
    started = time.process_time()
    leave_one_out(draw(400, 100), "ledoit_wolf", (60, 40))
    assert time.process_time() - started < 5
