import gc
import re
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from common.errors import (
    BankError,
    BankMismatchError,
    BundleError,
    ConfigError,
    MissingDataError,
    NotEnoughCasesError,
    OutputError,
)
from common.spectral import SignatureBank
from common.spectral.bank import REFIT_COMMAND

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
NO_BANK = r"\.npz is not a \w+ signature bank \("
LINE = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]


def unit_rows(number=6, size=4, seed=0):
    rows = np.random.default_rng(seed).normal(size=(number, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def assert_same_bank(first, second):
    assert_array_equal(first.signatures, second.signatures)
    assert_array_equal(first.leave_one_out, second.leave_one_out)
    assert (first.threshold, first.c, first.settings) == (second.threshold, second.c, second.settings)


def saved_with(tmp_path, **changes):
    """A bank's file in which some arrays were replaced."""
    SignatureBank.fit(unit_rows()).save(tmp_path / "bank.npz")
    with np.load(tmp_path / "bank.npz") as archive:
        content = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "edited.npz", **(content | {name: np.asarray(value) for name, value in changes.items()}))
    return tmp_path / "edited.npz"


@pytest.mark.parametrize("c", [0.0, 2.0, 2.5, 3.0])
def test_threshold_is_mean_plus_c_population_deviations(c):
    bank = SignatureBank.fit(LINE, c=c)
    # Leave-one-out distances 1, 1, 2: mean 4/3, population variance 2/9.
    assert_array_equal(bank.leave_one_out, [1.0, 1.0, 2.0])
    assert bank.threshold == pytest.approx(4 / 3 + c * (2 / 9) ** 0.5, rel=1e-12)


def test_default_c_is_that_of_the_paper():
    assert SignatureBank.fit(LINE).c == 2.5


def test_oodm_is_the_distance_to_the_nearest_signature():
    bank = SignatureBank.fit(LINE)
    assert bank.oodm(torch.tensor([1.0, 2.0])) == 2.0
    assert bank.oodm(np.array([3.0, 0.0])) == 0.0


def test_only_distances_above_the_threshold_are_out_of_distribution():
    bank = SignatureBank.fit([[0.0, 0.0], [1.0, 0.0]])
    assert bank.threshold == 1.0
    assert [bank.is_ood(np.array([x, 0.0])) for x in (-1.5, -1.0, 0.3, 2.0, 2.1)] == [True, False, False, False, True]


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis"])
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
        (LINE, {"distance": "cosine"}, ConfigError, "'cosine'; accepted are nearest and mahalanobis"),
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


@pytest.mark.parametrize("settings", [{}, SETTINGS])
def test_saved_bank_loads_bit_by_bit(tmp_path, settings):
    bank = SignatureBank.fit(unit_rows(), c=3.0, **settings)
    bank.save(tmp_path / "new" / "bank.npz")
    assert_same_bank(SignatureBank.load(tmp_path / "new" / "bank.npz"), bank)


def test_same_cases_in_any_order_give_the_same_bytes(tmp_path):
    rows = unit_rows()
    SignatureBank.fit(rows, **SETTINGS).save(tmp_path / "one.npz")
    SignatureBank.fit(rows[::-1], **SETTINGS).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_file_holds_numbers_settings_and_nothing_else(tmp_path):
    path = tmp_path / "patient_smith" / "bank.npz"
    SignatureBank.fit(unit_rows(), **SETTINGS).save(path)
    with np.load(path, allow_pickle=False) as archive:
        content = {name: archive[name] for name in archive.files}
    texts = {str(text) for array in content.values() if array.dtype.kind == "U" for text in array.reshape(-1)}
    assert set(content) == {*SETTINGS, "signatures", "leave_one_out", "threshold", "c", "version"}
    assert texts == {*SETTINGS["layers"], "bfloat16", "mahalanobis", "a1" * 32, "b2" * 32}
    assert not re.search(rb"smith|pytest|/tmp", path.read_bytes())


def test_missing_bank_names_the_command_that_fits_it(tmp_path):
    with pytest.raises(MissingDataError, match=re.escape(REFIT_COMMAND)) as caught:
        SignatureBank.load(tmp_path / "bank.npz")
    assert isinstance(caught.value, FileNotFoundError)


def test_bank_truncated_anywhere_is_refused(tmp_path):
    path = tmp_path / "bank.npz"
    SignatureBank.fit(unit_rows(), **SETTINGS).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        with pytest.raises(BankError, match=NO_BANK) as caught:
            SignatureBank.load(path)
        assert isinstance(caught.value, BundleError)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("start", [b"", b"\x80\x04", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"{}"])
def test_random_bytes_are_no_bank(tmp_path, start):
    rng = np.random.default_rng(0)
    for length in (1, 30, 300):
        (tmp_path / "bank.npz").write_bytes(start + rng.bytes(length))
        with pytest.raises(BankError, match=NO_BANK):
            SignatureBank.load(tmp_path / "bank.npz")


@pytest.mark.parametrize("place", [8, 10], ids=["encryption", "compression"])
def test_archive_of_a_kind_that_is_not_read_is_refused(tmp_path, place):
    path = tmp_path / "bank.npz"
    SignatureBank.fit(unit_rows()).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place] ^= 0x61
    path.write_bytes(content)
    with pytest.raises(BankError, match=NO_BANK):
        SignatureBank.load(path)


def test_unreadable_bank_is_closed(tmp_path):
    (tmp_path / "bank.npz").write_bytes(b"PK\x03\x04")
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(BankError):
            SignatureBank.load(tmp_path / "bank.npz")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_single_array_is_no_bank(tmp_path):
    with open(tmp_path / "bank.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BankError, match=NO_BANK):
        SignatureBank.load(tmp_path / "bank.npz")


def test_pickled_objects_are_never_loaded(tmp_path):
    with pytest.raises(BankError, match="allow_pickle=False"):
        SignatureBank.load(saved_with(tmp_path, layers=np.array([{"a": 1}], dtype=object)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"threshold": 99.0}, "threshold .*does not follow from its signatures"),
        ({"threshold": np.nan}, "threshold .*does not follow from its signatures"),
        ({"c": 9.0}, "does not follow from its signatures"),
        ({"signatures": unit_rows(seed=1)}, "does not follow from its signatures"),
        ({"version": 2}, "version"),
        ({"signatures": np.full((3, 4), np.nan)}, "NaN or infinite"),
        ({"distance": "cosine"}, NO_BANK),
        ({"signatures": unit_rows(1)}, NO_BANK),
        ({"version": "x"}, NO_BANK),
        ({"leave_one_out": np.zeros(6)}, NO_BANK),
        ({"threshold": 1e9}, r"threshold 1000000000\.0 does not follow from its signatures"),
        ({"threshold": np.inf}, "does not follow from its signatures"),
        ({"c": 1e9, "threshold": 1e9}, r"c is 1000000000\.0; accepted are 0 to 10"),
        ({"c": -1.0}, r"c is -1\.0; accepted are 0 to 10"),
        ({"c": np.nan}, "c is nan; accepted are 0 to 10"),
        ({"layers": ["a"], "signatures": 2.0 * unit_rows()}, r"longer than those of 1 layer\(s\), of norm 1 each"),
        ({"signatures": 1e200 * unit_rows()}, "negative or not finite: no threshold follows"),
        ({"signatures": unit_rows().astype(np.float32)}, "not of double precision"),
        ({"signatures": unit_rows().astype(complex)}, "not of double precision"),
        ({"more": np.zeros(3)}, "not a signature bank of version 1"),
    ],
)
def test_edited_bank_is_refused(tmp_path, changes, text):
    path = saved_with(tmp_path, **changes)
    with pytest.raises(BankError, match=text) as caught:
        SignatureBank.load(path)
    assert str(path) in str(caught.value)
    assert REFIT_COMMAND in str(caught.value)


def test_bank_without_a_setting_is_refused(tmp_path):
    np.savez(tmp_path / "bank.npz", signatures=unit_rows(), version=1)
    with pytest.raises(BankError, match=NO_BANK):
        SignatureBank.load(tmp_path / "bank.npz")


def test_bank_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "bank.npz").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*bank\.npz"):
        SignatureBank.fit(LINE).save(tmp_path / "bank.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis"])
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


def test_window_is_read_as_it_was_written(tmp_path):
    SignatureBank.fit(unit_rows(), **SETTINGS).save(tmp_path / "bank.npz")
    settings = SignatureBank.load(tmp_path / "bank.npz").settings
    window = (settings.roi_size, settings.overlap, settings.divisor)
    assert window == ((96, 64, 32), 0.5, 8)
    assert [type(value) for value in (*settings.roi_size, *window)] == [int, int, int, tuple, float, int]


@pytest.mark.parametrize("name", ["roi_size", "overlap", "divisor"])
def test_bank_that_does_not_tell_its_window_is_refused(tmp_path, name):
    SignatureBank.fit(unit_rows(), **SETTINGS).save(tmp_path / "bank.npz")
    with np.load(tmp_path / "bank.npz") as archive:
        content = {key: archive[key] for key in archive.files if key != name}
    np.savez(tmp_path / "old.npz", **content)
    with pytest.raises(BankError, match=NO_BANK):
        SignatureBank.load(tmp_path / "old.npz")


def test_command_that_refits_names_weights_and_split():
    assert "run fit_bank" in REFIT_COMMAND
    for option in ("--config_file", "--dataset_dir", "--model_dir", "--split_file"):
        assert f" {option} " in REFIT_COMMAND
