import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.spectral.distance import SHRINKAGE, distance_to, leave_one_out, mahalanobis_distance, nearest_distance


def naive_nearest(row, reference):
    return min(sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) ** 0.5 for other in reference)


def naive_mahalanobis(row, reference, shrinkage=SHRINKAGE):
    """Mean and population covariance by loops, then the inverse of the shrunk covariance."""
    number, size = len(reference), len(row)
    mean = [sum(other[i] for other in reference) / number for i in range(size)]
    covariance = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            covariance[i, j] = sum((other[i] - mean[i]) * (other[j] - mean[j]) for other in reference) / number
    trace = sum(covariance[i, i] for i in range(size))
    for i in range(size):
        covariance[i, i] += shrinkage * trace / size
    difference = np.asarray(row) - mean
    return float(difference @ np.linalg.inv(covariance) @ difference) ** 0.5


NAIVE = {"nearest": naive_nearest, "mahalanobis": naive_mahalanobis}


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 4)), rng.normal(size=(5, 4))


@pytest.mark.parametrize("distance", NAIVE)
def test_distance_equals_naive_loops(rows, distance):
    reference, others = rows
    expected = [NAIVE[distance](row, reference) for row in others]
    assert_allclose(distance_to(others, reference, distance), expected, rtol=1e-10)


@pytest.mark.parametrize("distance", NAIVE)
def test_leave_one_out_refits_without_the_case(rows, distance):
    reference, _ = rows
    expected = [
        NAIVE[distance](row, [other for j, other in enumerate(reference) if j != i]) for i, row in enumerate(reference)
    ]
    assert_allclose(leave_one_out(reference, distance), expected, rtol=1e-10)


def test_leave_one_out_mahalanobis_is_larger_than_in_sample(rows):
    reference, _ = rows
    assert bool((leave_one_out(reference, "mahalanobis") > mahalanobis_distance(reference, reference)).all())


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 2.0])
def test_shrinkage_adds_a_share_of_the_mean_variance(rows, shrinkage):
    reference, others = rows
    expected = [naive_mahalanobis(row, reference, shrinkage) for row in others]
    assert_allclose(mahalanobis_distance(others, reference, shrinkage=shrinkage), expected, rtol=1e-10)


def test_mahalanobis_works_with_fewer_cases_than_dimensions():
    reference = np.random.default_rng(0).normal(size=(3, 12))
    others = np.random.default_rng(1).normal(size=(2, 12))
    expected = [naive_mahalanobis(row, reference) for row in others]
    assert_allclose(mahalanobis_distance(others, reference), expected, rtol=1e-8)


def test_mahalanobis_works_in_one_dimension():
    reference = np.array([[0.0], [2.0]])
    assert_allclose(mahalanobis_distance(np.array([[3.0]]), reference), [2 / np.sqrt(1.05)], rtol=1e-12)


def test_nearest_distance_of_a_reference_is_zero(rows):
    reference, _ = rows
    assert_allclose(nearest_distance(reference, reference), np.zeros(7), atol=0)
