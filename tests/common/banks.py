"""Signatures for the tests of banks."""

import numpy as np
from numpy.testing import assert_array_equal

SETTINGS = {
    "layers": ("decoders.0", "encoders.3"),
    "per_voxel": True,
    "precision": "bfloat16",
    "roi_size": (96, 64, 32),
    "overlap": 0.5,
    "divisor": 8,
    "distance": "mahalanobis",
    "weights_digest": "a1" * 32,
    "preprocessing_digest": "b2" * 32,
}


LINE = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]


def unit_rows(number=6, size=4, seed=0):
    rows = np.random.default_rng(seed).normal(size=(number, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def assert_same_bank(first, second):
    assert_array_equal(first.signatures, second.signatures)
    assert_array_equal(first.leave_one_out, second.leave_one_out)
    assert (first.threshold, first.c, first.settings) == (second.threshold, second.c, second.settings)
