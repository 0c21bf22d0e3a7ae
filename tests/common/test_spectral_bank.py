import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from common.errors import (
    BankError,
    BankMismatchError,
    BundleError,
    ConfigError,
    NotEnoughCasesError,
)
from common.spectral import SignatureBank
from common.spectral.bank import REFIT_COMMAND
from tests.common.banks import LINE, SETTINGS, assert_same_bank, unit_rows


@pytest.mark.parametrize("c", [0.0, 2.0, 2.5, 3.0])
def test_threshold_is_mean_plus_c_population_deviations(c):
    bank = SignatureBank.fit(LINE, c=c)
    # Leave-one-out distances 1, 1, 2: mean 4/3, population variance 2/9.
    assert_array_equal(bank.leave_one_out, [1.0, 1.0, 2.0])
    assert bank.threshold == pytest.approx(4 / 3 + c * (2 / 9) ** 0.5, rel=1e-12)


def test_default_c_is_that_of_the_paper():
    assert SignatureBank.fit(LINE).c == 2.5


def test_oodm_is_computed_in_double_precision():
    bank = SignatureBank.fit(LINE)
    near = np.float32(1 / 3)
    signature = np.array([near, 2.0], dtype=np.float32)
    assert bank.oodm(signature) == bank.oodm(signature.astype(np.float64)) == bank.oodm(torch.from_numpy(signature))


def test_oodm_is_the_distance_to_the_nearest_signature():
    bank = SignatureBank.fit(LINE)
    assert bank.oodm(torch.tensor([1.0, 2.0])) == 2.0
    assert bank.oodm(np.array([3.0, 0.0])) == 0.0


def test_only_distances_above_the_threshold_are_out_of_distribution():
    bank = SignatureBank.fit([[0.0, 0.0], [1.0, 0.0]])
    assert bank.threshold == 1.0
    assert [bank.is_ood(np.array([x, 0.0])) for x in (-1.5, -1.0, 0.3, 2.0, 2.1)] == [True, False, False, False, True]


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis", "ledoit_wolf", "clusters"])
def test_order_and_duplicates_of_cases_do_not_matter(distance):
    rows = unit_rows()
    shuffled = np.concatenate([rows[::-1], rows[2:4]])
    assert_same_bank(SignatureBank.fit(rows, distance=distance), SignatureBank.fit(shuffled, distance=distance))


def test_tensors_and_rows_of_tensors_are_accepted():
    rows = torch.from_numpy(unit_rows())
    assert_same_bank(SignatureBank.fit(rows), SignatureBank.fit(list(rows)))
    assert_same_bank(SignatureBank.fit(rows), SignatureBank.fit(rows.numpy()))


@pytest.mark.parametrize(
    ("rows", "settings", "error", "text"),
    [
        ([], {}, NotEnoughCasesError, "0 distinct training case.*at least 2"),
        ([[1.0, 0.0]] * 3, {}, NotEnoughCasesError, "1 distinct training case"),
        (LINE[:2], {"distance": "mahalanobis"}, NotEnoughCasesError, "at least 3 with distance='mahalanobis'"),
        ([[np.nan, 0.0], [1.0, 0.0]], {}, BankError, "NaN or infinite"),
        (LINE, {"c": 10.5}, ConfigError, r"c is 10\.5; accepted are 0 to 10, the paper has 2\.5: set threshold_c"),
        ([[0.0], [1e200]] * np.ones((1, 2)), {}, BankError, "negative or not finite: no threshold follows"),
        (
            LINE,
            {"distance": "cosine"},
            ConfigError,
            "'cosine'; accepted are nearest, mahalanobis, ledoit_wolf, clusters",
        ),
    ],
)
def test_what_gives_no_threshold_is_refused(rows, settings, error, text):
    with pytest.raises(error, match=text) as caught:
        SignatureBank.fit(rows, **settings)
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("signature", "error", "text"),
    [([1.0, 2.0, 3.0], BankMismatchError, r"shape \(3,\).*\(2,\)"), ([np.inf, 0.0], BankError, "NaN or infinite")],
)
def test_signature_that_cannot_be_judged_is_refused(signature, error, text):
    with pytest.raises(error, match=text):
        SignatureBank.fit(LINE).oodm(np.array(signature))


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis", "ledoit_wolf", "clusters"])
def test_merged_banks_equal_the_bank_of_all_cases(distance):
    rows, settings = unit_rows(9), SETTINGS | {"distance": distance}
    banks = [SignatureBank.fit(part, c=2.0, **settings) for part in (rows[:4], rows[3:7], rows[6:])]
    assert_same_bank(SignatureBank.merge(banks), SignatureBank.fit(rows, c=2.0, **settings))
    assert_same_bank(SignatureBank.merge(reversed(banks)), SignatureBank.merge(iter(banks)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights_digest": "cc" * 32}, "weights_digest is cccccccccccc..., .* a1a1a1a1a1a1..."),
        ({"preprocessing_digest": "cc" * 32}, "preprocessing_digest"),
        ({"per_voxel": False}, "per_voxel is False"),
        ({"roi_size": (96, 96, 32)}, r"roi_size is \(96, 96, 32\), .* \(96, 64, 32\)"),
        ({"overlap": 0.25}, "overlap is 0.25, .* 0.5"),
        ({"divisor": 16}, "divisor is 16, .* 8"),
        ({"divisor": (8, 8, 1)}, r"divisor is \(8, 8, 1\), .* 8"),
        ({"c": 2.0}, "C = 2.5 and C = 2.0"),
    ],
)
def test_banks_that_differ_are_not_merged(changes, text):
    first = SignatureBank.fit(unit_rows(), **SETTINGS)
    second = SignatureBank.fit(unit_rows(seed=1), **(SETTINGS | changes))
    with pytest.raises(BankMismatchError, match=text):
        SignatureBank.merge([first, second])


def test_nothing_cannot_be_merged():
    with pytest.raises(NotEnoughCasesError, match="no signature bank to merge"):
        SignatureBank.merge([])


def test_settings_in_use_that_agree_pass():
    bank = SignatureBank.fit(unit_rows(), **SETTINGS)
    bank.check(**SETTINGS)
    bank.check(layers=list(SETTINGS["layers"]), roi_size=list(SETTINGS["roi_size"]))
    SignatureBank.fit(unit_rows(), divisor=(16, 16, 1)).check(divisor=[16, 16, 1])


@pytest.mark.parametrize(
    ("current", "text"),
    [
        ({"weights_digest": "cc" * 32}, "weights_digest is cccccccccccc..., the bank was fitted with a1a1a1a1a1a1..."),
        ({"preprocessing_digest": ""}, "preprocessing_digest is unset, the bank was fitted with b2b2b2b2b2b2..."),
        ({"layers": ["head"]}, "layers is ('head',), the bank was fitted with ('decoders.0', 'encoders.3')"),
        ({"per_voxel": False}, "per_voxel is False, the bank was fitted with True"),
        ({"precision": "float32"}, "precision is float32, the bank was fitted with bfloat16"),
        ({"roi_size": (64, 64, 32)}, "roi_size is (64, 64, 32), the bank was fitted with (96, 64, 32)"),
        ({"overlap": 0.25}, "overlap is 0.25, the bank was fitted with 0.5"),
        ({"divisor": 4}, "divisor is 4, the bank was fitted with 8"),
    ],
)
def test_setting_that_differs_is_named_with_the_command_that_refits(current, text):
    bank = SignatureBank.fit(unit_rows(), **SETTINGS)
    with pytest.raises(BankMismatchError, match=re.escape(text)) as caught:
        bank.check(**current)
    assert REFIT_COMMAND in str(caught.value)
    assert "\n" not in str(caught.value)


def test_command_that_refits_names_weights_and_split():
    assert "run fit_bank" in REFIT_COMMAND
    for option in ("--config_file", "--dataset_dir", "--model_dir", "--split_file"):
        assert f" {option} " in REFIT_COMMAND
