"""Whatever attributes and bytes of DICOM files hold: every file has a line, or belongs to a series with a row."""

import hashlib
import json

import pytest
from hypothesis import given

from tests.fuzzing.dicom import PATIENT, SERIES_LISTS, Series
from tests.fuzzing.edits import whole_runs

SOUND = Series(changes=[], edits=[], slices=8, nested=True)


@pytest.fixture
def put_series():
    """Writes a series into a folder of its own, or among the files of others."""

    def put(folder, number, series):
        place = folder / f"{number:02}" if series.nested else folder
        place.mkdir(exist_ok=True)
        for index, content in enumerate(series.files(number)):
            (place / f"{PATIENT}_{number:02}_{index}").write_bytes(content)

    return put


@pytest.fixture
def sound_series(segment, put_series):
    """The row of a sound series alone, and the bytes of its mask."""
    results = segment(lambda folder: put_series(folder, 99, SOUND))
    ((name, row),) = results.rows.items()
    assert not row["error"]
    return name, row, hashlib.sha256(results.masks[name].read_bytes()).hexdigest()


@whole_runs(20)
@given(changed=SERIES_LISTS)
@pytest.mark.tried(
    "Anything at random",
    "Any attribute of any slice, and damaged bytes",
    "A row for every series, a line for every other file; no name of a patient.",
)
def test_any_attribute(segment, put_series, sound_series, changed):
    def fill(folder):
        put_series(folder, 99, SOUND)
        for number, series in enumerate(changed):
            put_series(folder, number, series)

    results = segment(fill)
    name, row, mask = sound_series
    assert results.rows[name] == row
    assert hashlib.sha256(results.masks[name].read_bytes()).hexdigest() == mask
    listing = json.loads((results.output / "dicom_series.json").read_text(encoding="utf-8"))
    assert {item["case"] for item in listing["series"]} == results.rows.keys()
    assert listing["skipped"] == results.skipped
    files = [path for path in results.folder.rglob("*") if path.is_file()]
    unused = {item["file"] for item in results.skipped}
    assert len(unused) == len(results.skipped)
    # A damaged file may be listed, and beside that make the series fail that it may belong to.
    assert sum(item["files"] for item in listing["series"]) >= len(files) - len(unused)
    told = [results.log, *[path.read_text(errors="replace") for path in results.output.rglob("*") if path.is_file()]]
    # The series' own UID is told; one that is a name of a patient, no export writes.
    uids = {item["series_instance_uid"] for item in listing["series"]}
    uids |= {item["study_instance_uid"] for item in listing["series"]} | {
        item["modality"] for item in listing["series"]
    }
    if PATIENT not in uids:
        assert not [text for text in told if PATIENT in text]
