"""Which layers see a scan as most abnormal."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.spectral.layers import LayerSpreads, split_layers

ROWS = np.array([[0.0, 0.0, 5.0], [1.0, 0.0, 5.5], [3.0, 0.0, 6.5]])


def test_spreads_are_those_of_each_layer_by_itself():
    layers = LayerSpreads.of(ROWS, (2, 1))
    # Leave-one-out distances 1, 1, 2 and 0.5, 0.5, 1.
    deviation = (2 / 9) ** 0.5
    assert_allclose(layers.spreads, [[4 / 3, deviation], [2 / 3, deviation / 2]])
    assert [part.tolist() for part in split_layers(ROWS[:1], (2, 1))] == [[[0.0, 0.0]], [[5.0]]]


@pytest.mark.parametrize(
    ("signature", "phrases"),
    [
        ([0.0, 0.0, 5.0], []),
        ([0.0, 9.0, 5.0], ["layer a deviates by 16.3 spreads"]),
        ([0.0, 9.0, 95.0], ["layer b deviates by 373 spreads", "layer a deviates by 16.3 spreads"]),
    ],
)
def test_layers_beyond_the_training_are_named_the_farthest_first(signature, phrases):
    layers = LayerSpreads.of(ROWS, (2, 1))
    assert layers.deviating(np.array(signature), ROWS, ("a", "b"), 2.5) == phrases


def test_no_more_than_two_layers_are_named():
    rows = np.repeat(ROWS[:, :1], 4, axis=1)
    far = LayerSpreads.of(rows, (1, 1, 1, 1)).deviating(np.array([50.0, 60.0, 70.0, 80.0]), rows, "abcd", 2.5)
    assert [phrase.split()[1] for phrase in far] == ["d", "c"]


@pytest.mark.parametrize("sizes", [(), (3,), (2, 2), (1, 1)])
def test_single_layer_or_other_sizes_have_no_spreads(sizes):
    assert LayerSpreads.of(ROWS, sizes) is None
