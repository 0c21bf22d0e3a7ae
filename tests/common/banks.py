"""Signatures for the tests of banks."""

from dataclasses import replace

import numpy as np
from numpy.testing import assert_array_equal

from common.spectral import HeldOut, PropertyRanges, QualityCurve, SignatureBank
from common.spectral.properties import ScanProperties

SETTINGS = {
    "layers": ("decoders.0", "encoders.3"),
    "per_voxel": True,
    "signature_form": "unit",
    "sigmoid": True,
    "precision": "bfloat16",
    "roi_size": (96, 64, 32),
    "overlap": 0.5,
    "divisor": 8,
    "distance": "mahalanobis",
    "weights_digest": "a1" * 32,
    "preprocessing_digest": "b2" * 32,
}


BOUND = {"layers": ("a",), "roi_size": (8, 8), "weights_digest": "c3" * 32, "preprocessing_digest": "d4" * 32}
"""Settings without which a bank is not saved."""

LINE = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]


def unit_rows(number=6, size=4, seed=0):
    rows = np.random.default_rng(seed).normal(size=(number, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def full_bank(**changes):
    """A bank of two layers with everything that a bank may hold."""
    rows = np.concatenate([unit_rows(), unit_rows(seed=1)], axis=1)
    further = np.concatenate([unit_rows(5, seed=2), unit_rows(5, seed=3)], axis=1)
    settings = SETTINGS | {"distance": "nearest"} | changes
    held_out = HeldOut.of(further, ["a", "a", "b", "c", "d"])
    bank = SignatureBank.fit(rows, held_out=held_out, layer_sizes=(4, 4), **settings)
    curve = QualityCurve(
        np.asarray([0.1, 0.5, 2.0]), np.asarray([0.9, 0.7, 0.1]), np.asarray([0.4]), np.asarray([0.1, 0.3]), 0.9
    )
    scans = [ScanProperties({"noise": noise, "spacing_z": 1.0}, "axial", "MR") for noise in (0.02, 0.04)]
    doubt = QualityCurve(np.asarray([0.1, 0.8]), np.asarray([0.95, 0.2]), np.empty(0), np.asarray([0.2]), 0.9)
    return replace(bank, quality=curve, uncertainty=doubt, may_be_empty=True, ranges=PropertyRanges.of(scans))


def assert_same_bank(first, second):
    assert_array_equal(first.signatures, second.signatures)
    assert_array_equal(first.leave_one_out, second.leave_one_out)
    assert (first.threshold, first.c, first.settings) == (second.threshold, second.c, second.settings)
    assert first.false_alarm_rate == second.false_alarm_rate
    assert first.may_be_empty == second.may_be_empty
    for part in ("held_out", "quality", "uncertainty", "ranges", "layers"):
        one, other = (getattr(bank, part) for bank in (first, second))
        assert (one is None) == (other is None)
        for name, array in (one.content() if one is not None else {}).items():
            assert_array_equal(array, other.content()[name])
