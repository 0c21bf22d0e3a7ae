import gc
import re
import warnings

import numpy as np
import pytest

from common.errors import (
    BankError,
    BundleError,
    MissingDataError,
    OutputError,
)
from common.spectral import SignatureBank
from common.spectral.arrays import DIMENSIONS, LATER_ARRAYS, LATER_SETTINGS, NUMBERS
from common.spectral.bank import REFIT_COMMAND
from tests.common.banks import BOUND, LINE, SETTINGS, assert_same_bank, full_bank, unit_rows

NO_BANK = r"\.npz is not a \w+ signature bank \("


def saved_with(tmp_path, bank=None, **changes):
    """A bank's file in which some arrays were replaced."""
    (bank or SignatureBank.fit(unit_rows(), **BOUND | {"layers": ("a", "b")})).save(tmp_path / "bank.npz")
    with np.load(tmp_path / "bank.npz") as archive:
        content = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "edited.npz", **(content | {name: np.asarray(value) for name, value in changes.items()}))
    return tmp_path / "edited.npz"


@pytest.mark.parametrize("settings", [BOUND, SETTINGS, SETTINGS | {"divisor": (16, 16, 1)}])
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
    assert set(content) == {*SETTINGS, *NUMBERS, "version", *DIMENSIONS}
    assert texts == {*SETTINGS["layers"], "unit", "bfloat16", "mahalanobis", "a1" * 32, "b2" * 32}
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
    SignatureBank.fit(unit_rows(), **BOUND).save(path)
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
        ({"version": 1}, "not a signature bank of version 1 to 4"),
        ({"version": 5}, "not a signature bank of version 1 to 4"),
        ({"layers": [], "signatures": np.full((3, 4), np.nan)}, "NaN or infinite"),
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
        ({"layers": [], "signatures": 1e200 * unit_rows()}, "negative or not finite: no threshold follows"),
        ({"signatures": unit_rows().astype(np.float32)}, "not of double precision"),
        ({"signatures": unit_rows().astype(complex)}, "not of double precision"),
        ({"more": np.zeros(3)}, "not a signature bank of version 1 to 4"),
    ],
)
def test_edited_bank_is_refused(tmp_path, changes, text):
    path = saved_with(tmp_path, **changes)
    with pytest.raises(BankError, match=text) as caught:
        SignatureBank.load(path)
    assert str(path) in str(caught.value)
    assert REFIT_COMMAND in str(caught.value)


CURVE, RANGES, LAYERS = (
    "its prediction of Dice is no curve",
    "range of its properties|ranges of prop",
    "parts of its layers",
)
SCORES = "scores of its held-out cases do not follow"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"calibration": np.full(5, 0.2)}, SCORES),
        ({"calibration": np.full(5, np.nan)}, SCORES),
        ({"calibration": np.zeros(4)}, SCORES),
        ({"calibration_signatures": full_bank().signatures[:5]}, SCORES),
        ({"calibration_signatures": 9.0 * full_bank().held_out.signatures}, "longer than those of 2"),
        ({"calibration_weights": np.zeros(5)}, r"weight\(s\) in \]0, 1\] give no p-value"),
        ({"calibration_weights": np.full(5, np.inf)}, "give no p-value"),
        ({"calibration_weights": np.ones(5, dtype=np.float32)}, "not of double precision"),
        ({"calibration_weights": np.ones((5, 1))}, "calibration_weights has 2 dimension"),
        ({"false_alarm_rate": 0.5}, "does not follow from its signatures"),
        ({"false_alarm_rate": 0.01}, "no p-value from 4 calibration patient"),
        ({"false_alarm_rate": 7.0}, "false_alarm_rate is 7.0; accepted are"),
        ({"quality_dice": np.asarray([0.1, 0.7, 0.9])}, CURVE),
        ({"quality_dice": np.asarray([1.9, 0.7, 0.1])}, CURVE),
        ({"quality_dice": np.asarray([np.nan, 0.7, 0.1])}, CURVE),
        ({"quality_oodm": np.asarray([0.5, 0.5, 2.0])}, CURVE),
        ({"quality_oodm": np.empty(0), "quality_dice": np.empty(0)}, CURVE),
        ({"quality_edges": np.empty(0)}, CURVE),
        ({"quality_margins": np.asarray([0.3, 0.1])}, CURVE),
        ({"quality_coverage": 1.0}, CURVE),
        ({"quality_coverage": np.nan}, CURVE),
        ({"uncertainty_dice": np.asarray([0.2, 0.95])}, CURVE),
        ({"uncertainty_coverage": np.nan}, CURVE),
        ({"property_names": np.asarray(["noise", "patient"])}, "properties that there are not"),
        ({"property_names": np.asarray(["noise", "noise"])}, "or twice"),
        ({"property_names": np.asarray([1.0, 2.0])}, "property_names is of another type"),
        ({"property_limits": np.asarray([[0.04, 0.02], [1.0, 1.0]])}, RANGES),
        ({"property_limits": np.asarray([[0.02, np.inf], [1.0, 1.0]])}, RANGES),
        ({"property_limits": np.zeros((1, 2))}, RANGES),
        ({"property_limits": np.zeros((2, 3))}, RANGES),
        ({"property_planes": np.asarray(["Smith"])}, "there are not, or twice: .'Smith'"),
        ({"property_modalities": np.asarray(["=1+1"])}, "properties that there are not"),
        ({"layer_sizes": np.asarray([4, 5])}, LAYERS),
        ({"layer_sizes": np.asarray([8])}, LAYERS),
        ({"layer_sizes": np.asarray([9, -1])}, LAYERS),
        ({"layer_sizes": np.empty(0, dtype=np.int64)}, LAYERS),
        ({"layer_sizes": np.asarray([4.0, 4.0])}, "layer_sizes is of another type"),
        ({"layer_spreads": np.full((2, 2), -1.0)}, LAYERS),
        ({"layer_spreads": np.full((3, 2), 1.0)}, LAYERS),
    ],
)
def test_edited_part_of_a_bank_is_refused(tmp_path, changes, text):
    path = saved_with(tmp_path, full_bank(), **changes)
    with pytest.raises(BankError, match=text) as caught:
        SignatureBank.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [None, 0.25])
@pytest.mark.parametrize("distance", ["nearest", "ledoit_wolf"])
def test_bank_with_everything_loads_bit_by_bit(tmp_path, rate, distance):
    bank = full_bank(false_alarm_rate=rate, distance=distance)
    bank.save(tmp_path / "bank.npz")
    loaded = SignatureBank.load(tmp_path / "bank.npz")
    assert_same_bank(loaded, bank)
    assert [loaded.p_value(oodm) for oodm in (0.0, 0.4, 9.0)] == [bank.p_value(oodm) for oodm in (0.0, 0.4, 9.0)]


def test_logarithms_as_they_are_may_be_long_but_not_without_end(tmp_path):
    settings = SETTINGS | {"signature_form": "full"}
    SignatureBank.fit(50 * unit_rows(), **settings).save(tmp_path / "bank.npz")
    assert SignatureBank.load(tmp_path / "bank.npz").settings.signature_form == "full"
    SignatureBank.fit(500 * unit_rows(), **settings).save(tmp_path / "bank.npz")
    with pytest.raises(BankError, match="logarithms beyond 120"):
        SignatureBank.load(tmp_path / "bank.npz")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_bank_of_a_version_before_loads_without_the_new_parts(tmp_path, version):
    bank = SignatureBank.fit(unit_rows(), **SETTINGS | {"sigmoid": False})
    bank.save(tmp_path / "bank.npz")
    new = {name for name, came in (LATER_SETTINGS | LATER_ARRAYS).items() if came > version}
    new |= set(DIMENSIONS if version == 1 else ())
    with np.load(tmp_path / "bank.npz") as archive:
        content = {name: archive[name] for name in archive.files if name not in new}
    np.savez(tmp_path / "old.npz", **(content | {"version": np.asarray(version)}))
    old = SignatureBank.load(tmp_path / "old.npz")
    assert_same_bank(old, bank)
    assert (old.quality, old.uncertainty, old.ranges, old.layers) == (None, None, None, None)


def test_bank_without_a_setting_is_refused(tmp_path):
    np.savez(tmp_path / "bank.npz", signatures=unit_rows(), version=1)
    with pytest.raises(BankError, match=NO_BANK):
        SignatureBank.load(tmp_path / "bank.npz")


def test_bank_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "bank.npz").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*bank\.npz"):
        SignatureBank.fit(LINE, **BOUND).save(tmp_path / "bank.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


@pytest.mark.parametrize("name", BOUND)
def test_bank_that_is_bound_to_nothing_is_not_saved(tmp_path, name):
    bank = SignatureBank.fit(unit_rows(), **{key: value for key, value in BOUND.items() if key != name})
    with pytest.raises(BankError, match=rf"fitted without {name}, so nothing .* fit_bank\(network, scans, layers"):
        bank.save(tmp_path / "bank.npz")
    assert not list(tmp_path.iterdir())


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
