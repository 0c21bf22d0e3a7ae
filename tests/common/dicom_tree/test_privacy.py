"""Nothing that tells who the patient is leaves tags or names of files and folders."""

import hashlib
import json
import logging
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ComprehensiveSRStorage, JPEGLosslessSV1, RLELossless

from common.data import evaluation_cases, find_scans, scans_to_segment
from common.dicom.series import SLICE_TAGS, DicomSeriesReader, read_slice
from common.errors import DicomError, ImageError

SECRETS = ("DOE", "JANE", "P4711", "19600102", "A0815", "1960DOE", "Invalid value")
TAGS = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "DOE^JANE",
    "PatientID": "P4711",
    "PatientBirthDate": "19600102",
    "AccessionNumber": "A0815",
    "StudyDescription": "HEAD OF JANE",
}
FOLDER = "DOE^JANE_P4711/19600102_A0815"


@pytest.fixture
def named(export):
    """The export with a patient's attributes everywhere, some of them not even valid."""
    for path in export.slices(f"{FOLDER}/JANE", **TAGS):
        make_invalid(path)
    return export


def make_invalid(path):
    """Gives a slice a date of birth and a name that are not valid, the same in every slice: it is one patient."""
    content = Path(path).read_bytes()
    for bad in ((b"19600102", b"1960DOE!"), (b"DOE^JANE", b"DOE\xff\xfe\x80\x81\x82")):
        assert bad[0] in content
        content = content.replace(*bad)
    Path(path).write_bytes(content)


def secrets_in(text):
    return [secret for secret in SECRETS if secret in text]


def spoil(export, how):
    folder = f"{FOLDER}/JANE"
    files = [str(export.root / folder / f"{index}") for index in range(4)]
    {
        "nothing": lambda: None,
        "gap": lambda: os.unlink(files[1]),
        "pixels": lambda: export.shorten(files[2], 20),
        "vanished": lambda: None,
        "copy that differs": lambda: make_invalid(
            export.image(f"{folder}/JANE2", 9, SOPInstanceUID=export.instance(files[1]), **TAGS)
        ),
        "compressed": lambda: export.slices(
            folder, syntax=JPEGLosslessSV1, PixelData=encapsulate([b"\xff\xd8\xff\xd9"]), **TAGS
        ),
        "bad run lengths": lambda: export.slices(
            folder, syntax=RLELossless, PixelData=encapsulate([bytes(range(100))]), **TAGS
        ),
        "rescale": lambda: export.slices(folder, RescaleSlope=None, **TAGS),
        "report": lambda: export.put(f"{folder}/DOE", ComprehensiveSRStorage, **TAGS),
        "truncated": lambda: export.cut_before(export.image(f"{folder}/DOE", **TAGS), export.PIXEL_TAG),
    }[how]()
    return files


@pytest.mark.parametrize(
    "how",
    [
        "nothing",
        "gap",
        "pixels",
        "vanished",
        "copy that differs",
        "compressed",
        "bad run lengths",
        "rescale",
        "report",
        "truncated",
    ],
)
@pytest.mark.tried(
    "DICOM",
    "Names and numbers of patients in attributes, files and folders",
    "They appear in no log, result, name or error; listings hold digests.",
)
def test_neither_logs_nor_names_nor_errors_tell(named, listing, load, tmp_path, caplog, capfd, how):
    files = spoil(named, how)
    caplog.set_level(logging.DEBUG)
    cases = scans_to_segment(str(named.root), str(tmp_path / "out"))
    assert len(cases) == 2
    if how == "vanished":
        os.unlink(files[0])
    texts = [json.dumps([case["case"] for case in cases])]
    for case in cases:
        try:
            load(case)
        except ImageError as error:
            logging.getLogger("test").debug("failed", exc_info=True)
            texts += [str(error), repr(error)]
    assert (len(texts) == 1) == (how in ("nothing", "report"))
    assert [record.name for record in caplog.records if record.name.startswith("pydicom")] == []
    captured = capfd.readouterr()
    assert secrets_in("".join([*texts, caplog.text, captured.out, captured.err])) == []
    assert secrets_in("".join(path.name for path in (tmp_path / "out").rglob("*"))) == []
    for file in (tmp_path / "out").iterdir():
        assert secrets_in(file.read_text(encoding="utf-8")) == []
    content = listing(tmp_path / "out")
    path = hashlib.sha256(f"{FOLDER}/JANE".encode()).hexdigest()[:16]
    assert content["series"][0]["folder"] == f"path_{path}", "who knows the folder finds its series"
    assert len({item["file"] for item in content["skipped"]}) == len(content["skipped"])


def test_names_are_listed_where_they_are_asked_for(named, listing, tmp_path):
    spoil(named, "report")
    scans_to_segment(str(named.root), str(tmp_path / "out"), list_paths=True)
    content = listing(tmp_path / "out")
    assert content["series"][0]["folder"] == f"{FOLDER}/JANE"
    assert [item["file"] for item in content["skipped"]] == [f"{FOLDER}/JANE/DOE"]
    hidden = [{key: value for key, value in item.items() if key != "folder"} for item in content["series"]]
    assert secrets_in(json.dumps([hidden, [item["reason"] for item in content["skipped"]]])) == []


def test_evaluation_lists_no_name_either(named, tmp_path):
    spoil(named, "report")
    evaluation_cases(str(named.root), None, str(tmp_path / "out"))
    (file,) = (tmp_path / "out").iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["skipped"][0]["reason"] == "no pixel data (Comprehensive SR)"
    assert secrets_in(file.read_text(encoding="utf-8")) == []


def test_threads_do_not_make_one_another_speak(named, caplog, recwarn):
    warnings.simplefilter("always")
    files = find_scans(named.root)[0]["image"] * 50
    # What the search says is for other tests; it is recorded where one of them has asked for messages of that level.
    caplog.clear()
    with ThreadPoolExecutor(8) as pool:
        slices = list(pool.map(read_slice, files))
    assert {slice_.Rows for slice_ in slices} == {4}
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.records == []


def test_attributes_are_not_even_in_memory(named):
    slices = DicomSeriesReader().read(find_scans(named.root)[0]["image"])
    tags = {item.keyword for slice_ in slices for item in slice_}
    assert "PixelData" in tags
    assert tags <= {*SLICE_TAGS, "SpecificCharacterSet"}


def test_attributes_are_such_that_reading_them_warns(named):
    files = [named.root / FOLDER / "JANE" / f"{index}" for index in range(2)]
    assert dcmread(files[0]).PatientBirthDate == "1960DOE!"
    with pytest.warns(UserWarning, match="Failed to decode byte string"):
        assert str(dcmread(files[1]).PatientName).startswith("DOE")


def test_tag_that_is_no_uid_is_not_repeated(named, load, caplog):
    # Anything may stand where a UID should.
    uid = b"1.7.7777"
    paths = named.slices(f"{FOLDER}/JANE", SOPInstanceUID=uid.decode())
    for path in paths:
        Path(path).write_bytes(Path(path).read_bytes().replace(uid, b"DOE^JANE"))
    with pytest.raises(DicomError, match="4 files of one slice; remove copies") as caught:
        load(find_scans(named.root)[0])
    # pydicom would log the invalid value.
    assert secrets_in(str(caught.value) + caplog.text) == []
