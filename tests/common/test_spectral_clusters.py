"""Clusters of signatures: found where training sets differ in kind, and nowhere else."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from common.spectral import shrunk
from common.spectral.clusters import LEAST_CASES, ClusteredGaussian, bisect, find_clusters
from common.spectral.distance import distance_to, leave_one_out
from common.spectral.shrunk import LayeredGaussian, ShrunkGaussian

SIZES = (6, 4)


def draw(count, *, seed=0, shift=0.0):
    """Signatures of one kind, correlated."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(sum(SIZES), sum(SIZES)))
    return generator.normal(size=(count, sum(SIZES))) @ mixing + shift


@pytest.mark.parametrize("seed", range(4))
def test_one_kind_stays_together(seed):
    signatures = draw(60, seed=seed)
    assert [len(cases) for cases in find_clusters(signatures, SIZES)] == [60]
    assert_allclose(leave_one_out(signatures, "clusters", SIZES), leave_one_out(signatures, "ledoit_wolf", SIZES))


def test_three_kinds_are_told_apart():
    kinds = [draw(count, seed=count, shift=shift) for count, shift in ((20, 0.0), (30, 500.0), (15, -900.0))]
    found = find_clusters(np.concatenate(kinds), SIZES)
    assert [cases.tolist() for cases in found] == [list(range(20)), list(range(20, 50)), list(range(50, 65))]


def test_a_handful_of_another_kind_makes_no_cluster():
    few = np.concatenate([draw(30), draw(LEAST_CASES - 1, seed=1, shift=500.0)])
    assert len(find_clusters(few, SIZES)) == 1
    enough = np.concatenate([draw(30), draw(LEAST_CASES, seed=1, shift=500.0)])
    assert len(find_clusters(enough, SIZES)) == 2


def test_order_and_scale_do_not_matter():
    signatures = np.concatenate([draw(20), draw(20, seed=1, shift=500.0)])
    order = np.random.default_rng(3).permutation(40)
    sets = {frozenset(cases.tolist()) for cases in find_clusters(signatures, SIZES)}
    assert {frozenset(order[cases].tolist()) for cases in find_clusters(signatures[order], SIZES)} == sets
    others = draw(5, seed=9, shift=250.0)
    plain = distance_to(others, signatures, "clusters", SIZES)
    assert_allclose(distance_to(others, signatures[order], "clusters", SIZES), plain, rtol=1e-6)
    assert_allclose(distance_to(others * 8, signatures * 8, "clusters", SIZES), plain, rtol=1e-6)


def test_what_lies_between_two_kinds_is_abnormal():
    first, second = draw(30), draw(30, seed=1, shift=500.0)
    signatures, between = np.concatenate([first, second]), draw(1, seed=2, shift=250.0)
    near = distance_to(draw(20, seed=3), signatures, "clusters", SIZES)
    (far,) = distance_to(between, signatures, "clusters", SIZES)
    (single,) = distance_to(between, signatures, "ledoit_wolf", SIZES)
    assert far > 10 * near.max()
    assert single < near.max()


def test_distances_are_those_to_the_nearest_cluster():
    first, second = draw(20), draw(25, seed=1, shift=500.0)
    fit = ClusteredGaussian.fit(np.concatenate([first, second]), SIZES)
    parts = [LayeredGaussian.fit(part, SIZES) for part in (first, second)]
    others = np.concatenate([draw(4, seed=5), draw(4, seed=6, shift=500.0)])
    assert_allclose(fit.distance(others), np.minimum(*(part.distance(others) for part in parts)), rtol=1e-9)
    assert_allclose(fit.leave_one_out, np.concatenate([part.leave_one_out for part in parts]), rtol=1e-9)


def test_division_starts_at_the_direction_of_largest_variance():
    line = np.array([[0.0, 0.1], [1.0, 0.0], [9.0, 0.1], [10.0, 0.0]])
    assert bisect(line).tolist() in ([True, True, False, False], [False, False, True, True])
    assert bisect(np.zeros((4, 2))).sum() in (0, 4)


@pytest.mark.parametrize("largest", [1, 10**9])
def test_a_case_is_left_out_of_its_own_fit(monkeypatch, largest):
    """In one go, or one by one where memory is short: distance and density are those of a fit to the others."""
    monkeypatch.setattr(shrunk, "LARGEST", largest)
    signatures = draw(12)
    # A number that is the same in all cases.
    signatures[:, 3] = 7.0
    for case, (distance, density) in enumerate(zip(*shrunk.leave_one_out(signatures), strict=True)):
        fit = ShrunkGaussian.fit(np.delete(signatures, case, axis=0))
        assert distance == pytest.approx(fit.distance(signatures[[case]])[0])
        covariance = np.outer(fit.spread, fit.spread) * (fit.root @ fit.root.T)
        whole = multivariate_normal(fit.mean, covariance).logpdf(signatures[case])
        assert density == pytest.approx(whole + 0.5 * signatures.shape[1] * np.log(2 * np.pi))
