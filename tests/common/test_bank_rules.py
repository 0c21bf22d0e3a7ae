import math

import numpy as np
import pytest

from common.errors import BankError, ConfigError
from common.runtime.bank_rules import MAX_C, check_norms, implied_threshold


@pytest.mark.parametrize("c", [0, 0.0, 2.5, MAX_C])
def test_threshold_is_that_of_mean_and_population_deviation(c):
    values = np.random.default_rng(0).random(50)
    expected = values.mean() + c * np.sqrt(((values - values.mean()) ** 2).mean())
    assert implied_threshold(values.tolist(), c) == pytest.approx(expected, rel=1e-12)


def test_large_distances_do_not_overflow():
    assert implied_threshold([1e308, 1e308], 2.5) == pytest.approx(1e308)


@pytest.mark.parametrize("c", [-1e-9, MAX_C + 1e-9, math.inf, math.nan])
def test_c_out_of_range_is_refused(c):
    with pytest.raises(ConfigError, match=r"c is .*; accepted are 0 to 10, the paper has 2\.5: set threshold_c"):
        implied_threshold([1.0, 2.0], c)


@pytest.mark.parametrize("value", [-1e-9, math.inf, -math.inf, math.nan])
def test_distance_that_is_none_is_refused(value):
    with pytest.raises(BankError, match="negative or not finite: no threshold follows"):
        implied_threshold([1.0, value], 2.5)


def test_signature_is_as_long_as_its_layers_allow():
    check_norms([[0.6, 0.8], [0.0, 0.1]], 1)
    check_norms([[0.6, 0.8, 1.0]], 2)
    check_norms([[1e9]], 0)
    for rows in ([[0.1, 0.1], [0.7, 0.8]], [[math.nan, 0.0]], [[math.inf, 0.0]]):
        with pytest.raises(BankError, match=r"longer than those of 1 layer\(s\), of norm 1 each, can be"):
            check_norms(rows, 1)
