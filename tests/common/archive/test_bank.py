"""Signature banks, read without numpy: a bank whose threshold does not follow from its numbers is refused."""

import io
import re
import zipfile

import numpy as np
import pytest

from common.archive.bank import FIELDS, LATER_FIELDS, MORE_FIELDS, bank_weights_digest
from common.errors import ArchiveError
from common.spectral import SignatureBank
from tests.common.banks import BOUND, full_bank

DIGEST = "ab" * 32


def unit_rows(count=6, width=5):
    rows = np.random.default_rng(0).standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def content(tmp_path):
    """Arrays of a sound bank."""
    return arrays_of(SignatureBank.fit(unit_rows(), **BOUND | {"weights_digest": DIGEST}), tmp_path)


def written(content):
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


@pytest.fixture
def full_content(tmp_path):
    """Arrays of a bank with everything that a bank may hold."""
    return arrays_of(full_bank(weights_digest=DIGEST), tmp_path)


def arrays_of(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    with np.load(tmp_path / "bank.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("distance", ["nearest", "mahalanobis"])
@pytest.mark.parametrize("c", [0.0, 2.5, 10.0])
def test_sound_bank_tells_its_weights(tmp_path, distance, c):
    bank = SignatureBank.fit(unit_rows(), c=c, distance=distance, **BOUND | {"weights_digest": DIGEST})
    bank.save(tmp_path / "b.npz")
    assert bank_weights_digest((tmp_path / "b.npz").read_bytes(), "bank") == DIGEST


def test_fields_are_those_that_a_bank_has(content):
    assert content.keys() == FIELDS.union(MORE_FIELDS, *LATER_FIELDS)


@pytest.mark.parametrize("rate", [None, 0.25])
@pytest.mark.parametrize("distance", ["nearest", "mahalanobis", "ledoit_wolf", "clusters"])
def test_sound_bank_with_everything_tells_its_weights(tmp_path, rate, distance):
    content = arrays_of(full_bank(weights_digest=DIGEST, false_alarm_rate=rate, distance=distance), tmp_path)
    assert bank_weights_digest(written(content), "bank") == DIGEST


def test_rate_without_held_out_cases_is_checked_on_the_training_cases(tmp_path):
    content = arrays_of(
        SignatureBank.fit(unit_rows(), false_alarm_rate=0.3, **BOUND | {"weights_digest": DIGEST}), tmp_path
    )
    assert bank_weights_digest(written(content), "bank") == DIGEST
    with pytest.raises(ArchiveError, match=FOLLOWS):
        bank_weights_digest(written(content | {"false_alarm_rate": np.asarray(np.nan)}), "bank")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_bank_of_a_version_before_is_read(content, version):
    kept = FIELDS.union(*(MORE_FIELDS, *LATER_FIELDS)[: version - 1])
    old = {name: array for name, array in content.items() if name in kept}
    assert bank_weights_digest(written(old | {"version": np.asarray(version)}), "bank") == DIGEST
    with pytest.raises(ArchiveError, match="the arrays of another version than 4"):
        bank_weights_digest(written(old), "bank")


def test_bank_of_another_version_than_it_says_is_refused(content):
    with pytest.raises(ArchiveError, match="the arrays of another version than 1"):
        bank_weights_digest(written(content | {"version": np.asarray(1)}), "bank")


FOLLOWS = "does not follow from its distances"
CHANGES = {
    "threshold": ({"threshold": 1e9}, FOLLOWS),
    "threshold a little above": ({"threshold": lambda old: old * 1.00001}, FOLLOWS),
    "threshold below": ({"threshold": lambda old: old / 2}, FOLLOWS),
    "threshold of no number": ({"threshold": np.nan}, FOLLOWS),
    "endless threshold": ({"threshold": np.inf}, FOLLOWS),
    "other c": ({"c": 3.0}, FOLLOWS),
    "huge c": ({"c": 1e9, "threshold": lambda old: old * 1e9}, "c is 1000000000.0; accepted are 0 to 10"),
    "negative c": ({"c": -1.0}, "accepted are 0 to 10"),
    "c of no number": ({"c": np.nan}, "accepted are 0 to 10"),
    "distances": ({"leave_one_out": lambda old: np.full_like(old, 0.3), "threshold": 0.3}, "from its signatures"),
    "negative distance": ({"leave_one_out": lambda old: -old}, "negative or not finite"),
    "endless distance": ({"leave_one_out": lambda old: old * np.inf}, "negative or not finite"),
    "fewer distances": ({"leave_one_out": lambda old: old[1:]}, "6 signatures of length 5 and 5 distances"),
    "one signature": ({"leave_one_out": lambda old: old[:1], "signatures": lambda old: old[:1]}, "1 signatures"),
    "no signature": ({"leave_one_out": np.zeros(0), "signatures": np.zeros((0, 5))}, "0 signatures"),
    "empty signatures": ({"signatures": np.zeros((6, 0))}, "6 signatures of length 0 and 6 distances"),
    "signature far away": ({"signatures": lambda old: np.vstack([old[:-1], old[-1:] * 1e9])}, "longer than those of 1"),
    "signature of no number": ({"signatures": lambda old: old * np.nan}, "longer than those of 1"),
    "coarse numbers": ({"signatures": lambda old: old.astype(np.float32)}, "has to hold numbers"),
    "numbers in a cube": ({"signatures": lambda old: old[None]}, "is of shape (1, 6, 5)"),
    "other order of elements": ({"signatures": np.asfortranarray}, "not in row-major order"),
    "logarithms without end": (
        {"signature_form": "full", "signatures": lambda old: np.vstack([old[:-1], old[-1:] * 1e9])},
        "logarithms beyond 120",
    ),
    "form that does not exist": ({"signature_form": "half"}, "of the form 'half' do not exist"),
    "objects": ({"layers": np.array([{}], dtype=object)}, "is of type '|O'"),
    "fields": ({"threshold": np.zeros((), dtype=[("a", "<f8")])}, "is of type [('a', '<f8')]"),
    "complex numbers": ({"threshold": np.zeros((), dtype=complex)}, "is of type '<c16'"),
    "digest that is no text": ({"weights_digest": np.zeros(3)}, "has to hold a text"),
    "two digests": ({"weights_digest": np.asarray([DIGEST, DIGEST])}, "has to hold a text"),
    "another array": ({"more": np.zeros(3)}, "it has other arrays than a bank, ['more']"),
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.tried("Archives and weights", "Banks whose threshold does not follow from their signatures", "Refused.")
def test_bank_that_contradicts_itself_is_refused(content, kind):
    changes, text = CHANGES[kind]
    changed = {name: value(content[name]) if callable(value) else np.asarray(value) for name, value in changes.items()}
    with pytest.raises(ArchiveError, match=re.escape(text)) as caught:
        bank_weights_digest(written(content | changed), "organ.zip: bank")
    assert str(caught.value).startswith("organ.zip: bank holds more than tensors or is damaged")
    assert "\n" not in str(caught.value)


CURVE, LAYERS = "its prediction of Dice is no curve", "the parts of its layers do not make a signature"
PARTS = {
    "scores": ({"calibration": lambda old: old / 2}, "scores of its held-out cases do not follow"),
    "negative scores": ({"calibration": lambda old: -old}, "a score of its held-out cases is negative or not finite"),
    "scores of no number": ({"calibration": lambda old: old * np.nan}, "is negative or not finite"),
    "fewer scores": ({"calibration": lambda old: old[1:]}, "5 held-out signatures have 4 scores and 5 weights"),
    "held-out case far away": ({"calibration_signatures": lambda old: old * 9}, "longer than those of 2"),
    "held-out case of other length": ({"calibration_signatures": lambda old: old[:, 1:]}, "dimension"),
    "no weight": ({"calibration_weights": np.zeros(5)}, "weight(s) in ]0, 1] give no p-value"),
    "huge weights": ({"calibration_weights": np.full(5, 1e9)}, "give no p-value"),
    "rate": ({"false_alarm_rate": 0.5}, FOLLOWS),
    "rate that cannot be kept": ({"false_alarm_rate": 1e-9}, "no p-value from 4 calibration patient(s)"),
    "rate out of range": ({"false_alarm_rate": 2.0}, "false_alarm_rate is 2.0; accepted are"),
    "rising Dice": ({"quality_dice": lambda old: old[::-1].copy()}, CURVE),
    "Dice above 1": ({"quality_dice": lambda old: old + 1.0}, CURVE),
    "falling knots": ({"quality_oodm": lambda old: old[::-1].copy()}, CURVE),
    "falling margins": ({"quality_margins": lambda old: old[::-1].copy()}, CURVE),
    "curve without knots": ({"quality_oodm": np.zeros(0), "quality_dice": np.zeros(0)}, CURVE),
    "coverage": ({"quality_coverage": 0.0}, CURVE),
    "rising Dice by uncertainty": ({"uncertainty_dice": lambda old: old[::-1].copy()}, CURVE),
    "coverage by uncertainty": ({"uncertainty_coverage": np.nan}, CURVE),
    "coarse Dice": ({"quality_dice": lambda old: old.astype(np.float32)}, "has to hold numbers"),
    "name of a patient": ({"property_planes": np.asarray(["Smith"])}, "properties that there are not"),
    "names of no property": ({"property_names": np.asarray(["noise", "tumor"])}, "properties that there are not"),
    "numbers for names": ({"property_names": np.zeros(2)}, "has to hold texts"),
    "ranges upside down": ({"property_limits": lambda old: old[:, ::-1].copy()}, "from a smaller to a larger"),
    "ranges without names": ({"property_names": np.empty(0, dtype="<U1")}, "from a smaller to a larger"),
    "layers": ({"layer_sizes": np.asarray([3, 4])}, LAYERS),
    "layers that overlap": ({"layer_sizes": np.asarray([12, -4])}, LAYERS),
    "spreads of no number": ({"layer_spreads": np.full((2, 2), np.nan)}, LAYERS),
    "layers of broken numbers": ({"layer_sizes": np.asarray([4.0, 4.0])}, "has to hold whole numbers"),
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.tried(
    "Archives and weights", "Banks whose p-values, predictions of Dice or ranges contradict themselves", "Refused."
)
def test_part_that_contradicts_itself_is_refused(full_content, kind):
    changes, text = PARTS[kind]
    new = {name: value(full_content[name]) if callable(value) else np.asarray(value) for name, value in changes.items()}
    with pytest.raises(ArchiveError, match=re.escape(text)) as caught:
        bank_weights_digest(written(full_content | new), "organ.zip: bank")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(FIELDS | MORE_FIELDS))
def test_bank_that_lacks_an_array_is_refused(content, name):
    del content[name]
    with pytest.raises(ArchiveError, match=rf"other arrays than a bank, \['{name}'\]"):
        bank_weights_digest(written(content), "bank")


def with_array(raw):
    """A file in which the threshold is an array of such bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("threshold.npy", "w", force_zip64=True) as member:
        member.write(raw)
    return buffer.getvalue()


def array(header, data=b"", version=b"\2\0"):
    text = header.encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(4, "little") + text + data


SHAPE = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"none", "a file in it is no array"),
        (array(SHAPE % "()", bytes(8), version=b"\3\0"), "a file in it is no array"),
        (array("-" * 200_000), "has a header of 200000 bytes"),
        (array("-" * 9_000), "do not load it"),
        (array("{'descr': '<i4,O'}"), "do not load it"),
        (array(SHAPE.replace("<f8", "<i4,O") % "()"), "is of type '<i4,O'"),
        (array(SHAPE % "()", bytes(9)), "more or fewer bytes than it says"),
        (array(SHAPE % "()", bytes(7)), "more or fewer bytes than it says"),
        (array(SHAPE % "[3]", bytes(24)), "not in row-major order"),
        (array(SHAPE % "(-1,)"), "is of shape (-1,)"),
        (array(SHAPE % "(True,)", bytes(8)), "is of shape (True,)"),
        (array(SHAPE % "(2147483648, 0)"), "is of shape (2147483648, 0)"),
    ],
)
def test_array_made_to_break_its_reader_is_refused(raw, text):
    with pytest.raises(ArchiveError, match=re.escape(text)):
        bank_weights_digest(with_array(raw), "bank")


def test_bank_that_is_no_archive_is_refused(content):
    whole = written(content)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    for raw in (b"none", whole + whole, whole[1:], buffer.getvalue()):
        with pytest.raises(ArchiveError, match="do not load it"):
            bank_weights_digest(raw, "bank")


def test_bank_of_a_huge_threshold_is_refused_in_an_archive(files, sealed, refuse, content):
    bank = written(content | {"threshold": np.asarray(1e9)})
    assert "threshold 1e+09 does not follow" in refuse(sealed(files | {"organ/models/signature_bank.npz": bank}))
