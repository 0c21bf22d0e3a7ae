"""DICOM series: one patient, gray values the right way round, a sound place, a bearable size."""

import math
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.data import find_scans
from common.dicom.series import DicomSeriesReader, series_name
from common.errors import DicomError


@pytest.fixture
def series(tmp_path, save_slice):
    """Writes a series of four slices, each with tags of its own beside the common ones; returns its folder as text."""

    def write(name="series", each=(), **common):
        for index, own in enumerate([*each, *[{}] * (4 - len(each))]):
            save_slice(tmp_path / name / f"{index}.dcm", 5 + 3 * index, number=index + 1, **(common | own))
        return str(tmp_path / name)

    return write


STORED = {
    "12 bits": {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
    "16 bits": {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0},
    "signed": {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1},
    "without rescaling": {"PixelRepresentation": 0, "RescaleSlope": ..., "RescaleIntercept": ...},
    "of unspecified unit": {"PixelRepresentation": 0, "RescaleType": "US"},
}


@pytest.mark.parametrize("tags", STORED.values(), ids=STORED)
@pytest.mark.tried(
    "DICOM",
    "Images that show low numbers white (`MONOCHROME1`)",
    "They are inverted, as a viewer does.",
)
def test_low_numbers_shown_white_are_inverted(series, load, tags):
    dtype = np.int16 if tags["PixelRepresentation"] else np.uint16
    stored = np.arange(24, dtype=dtype) * 7
    ends = -1 if tags["PixelRepresentation"] else 2 ** tags.get("BitsStored", 16) - 1
    inverted = (ends - stored.astype(np.int64)).astype(dtype)
    settings = tags | {"Modality": "MR", "RescaleSlope": tags.get("RescaleSlope", 2)}
    white = series("white", PhotometricInterpretation="MONOCHROME1", PixelData=inverted.tobytes(), **settings)
    black = series("black", PhotometricInterpretation="MONOCHROME2", PixelData=stored.tobytes(), **settings)
    assert_array_equal(load(white).numpy(), load(black).numpy())


def test_numbers_in_a_unit_stay_however_they_are_shown(series, load):
    """Hounsfield units are the same on a screen that shows them inverted."""
    white = series("white", PhotometricInterpretation="MONOCHROME1", RescaleType="HU")
    assert_array_equal(load(white).numpy(), load(series("black", RescaleType="HU")).numpy())


PATIENTS = {
    "other number": [{"PatientID": "P1"}, {"PatientID": "P2"}],
    "one without a number": [{"PatientID": "P1", "PatientName": "DOE^JANE"}, {"PatientID": ...}],
    "other name": [{"PatientName": "DOE^JANE"}, {"PatientName": "ROE^RICHARD"}],
    "other name under one number": [
        {"PatientID": "ANON", "PatientName": "DOE^JANE"}, {"PatientID": "ANON", "PatientName": "ROE^RICHARD"},
    ],
    "other date of birth": [
        {"PatientID": "ANON", "PatientBirthDate": "19700102"}, {"PatientID": "ANON", "PatientBirthDate": "19810304"},
    ],
    "other sex": [{"PatientID": "ANON", "PatientSex": "F"}, {"PatientID": "ANON", "PatientSex": "M"}],
    "only a date of birth": [{"PatientBirthDate": "19700102"}, {"PatientBirthDate": "19810304"}],
    "only a sex": [{"PatientSex": "F"}, {"PatientSex": "M"}],
}  # fmt: skip


@pytest.mark.parametrize("each", PATIENTS.values(), ids=PATIENTS)
@pytest.mark.tried("DICOM", "Slices of two patients under one series", "A row with the reason, without their names.")
def test_two_patients_under_one_series_uid_are_refused_without_their_names(series, load, each):
    each = [{"PatientID": "", "PatientName": ""} | tags for tags in (each[0], each[0], each[1], each[1])]
    folder = series(each=each)
    assert len(find_scans(folder)) == 1
    with pytest.raises(DicomError, match="slices of different patients under one SeriesInstanceUID") as caught:
        load(folder)
    assert not [word for word in ("P1", "P2", "DOE", "ROE", "ANON", "1970", "1981") if word in str(caught.value)]


ONE_PATIENT = {
    "all equal": {"PatientID": "ANON", "PatientName": "DOE^JANE", "PatientBirthDate": "19700102", "PatientSex": "F"},
    "none": {"PatientID": ..., "PatientName": ..., "PatientBirthDate": ..., "PatientSex": ...},
    "all empty": {"PatientID": "", "PatientName": "", "PatientBirthDate": "", "PatientSex": ""},
}


@pytest.mark.parametrize("tags", ONE_PATIENT.values(), ids=ONE_PATIENT)
def test_slices_of_one_patient_or_of_none_are_read(series, load, tags):
    assert load(series(**tags)).shape == (1, 6, 4, 4)


SAME_NAME = ("DOE^JANE^", "DOE^JANE^^^", "Doe^Jane", " DOE ^JANE ")


@pytest.mark.parametrize("name", SAME_NAME)
def test_one_name_is_one_name_however_it_is_padded(series, load, name):
    assert load(series(each=[{"PatientName": name}], PatientName="DOE^JANE")).shape == (1, 6, 4, 4)


def test_slices_may_lack_the_date_of_birth_and_sex_of_others(series, load):
    each = [{"PatientBirthDate": "19700102", "PatientSex": "F"}, {"PatientBirthDate": "", "PatientSex": ...}]
    assert load(series(each=each, PatientID="ANON")).shape == (1, 6, 4, 4)


def test_one_patient_is_one_patient_however_often_the_name_is_mistyped(series, load):
    folder = series(each=[{"PatientName": "DOE^JANE^"}], PatientID="P1", PatientName="DOE^JANE")
    assert load(folder).shape == (1, 6, 4, 4)
    for slice_ in DicomSeriesReader().read(folder):
        assert not [item.keyword for item in slice_ if item.keyword.startswith("Patient")]


@pytest.mark.tried("DICOM", "Slices of two studies under one series", "A row with the reason.")
def test_two_studies_under_one_series_uid_are_refused(series, load):
    with pytest.raises(DicomError, match="slices of different StudyInstanceUID"):
        load(series(each=[{"StudyInstanceUID": "7.7"}]))


GEOMETRY = {
    "huge pixels": {"PixelSpacing": [1e30, 1]},
    "large pixels": {"PixelSpacing": [2000, 2000]},
    "tiny pixels": {"PixelSpacing": [1e-9, 1e-9]},
    "no pixels": {"PixelSpacing": [0, 0]},
    "nan": {"PixelSpacing": [math.nan, 1]},
    "turned to nan": {"ImageOrientationPatient": [math.nan, 0, 0, 0, 1, 0]},
    "axes of no length": {"ImageOrientationPatient": [0] * 6},
    "sheared": {"ImageOrientationPatient": [1, 0, 0, 0.3, 0.954, 0]},
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # while it is written
@pytest.mark.parametrize("tags", GEOMETRY.values(), ids=GEOMETRY)
@pytest.mark.parametrize("slices", [4, 1])
def test_series_without_a_sound_place_is_refused_in_one_line(series, load, tmp_path, tags, slices):
    folder = series()
    for index in range(4):
        path = tmp_path / "series" / f"{index}.dcm"
        data = dcmread(path)
        for name, value in tags.items():
            setattr(data, name, [f"{number:g}" for number in value])
        data.save_as(path)
        if index >= slices:
            path.unlink()
    with pytest.raises(DicomError) as caught:
        load(folder)
    assert str(caught.value).startswith(series_name("1.2.3"))
    assert "\n" not in str(caught.value)


@pytest.mark.tried(
    "Size and memory",
    "DICOM series of more than `max_voxels`",
    "A row with the reason; no pixel is decoded.",
)
def test_series_of_more_than_the_accepted_voxels_is_not_decoded(series, load):
    folder = series()
    assert load(folder, max_voxels=96).shape == (1, 6, 4, 4)
    with pytest.raises(DicomError, match=r"declares 6 x 4 x 4 voxels; accepted are 95 \(max_voxels\)"):
        load(folder, max_voxels=95)


@pytest.mark.tried("Size and memory", "Deflated DICOM that inflates without end", "A row with the reason.")
def test_deflated_file_is_not_inflated_without_end(series, load, tmp_path, monkeypatch):
    folder = series(syntax=DeflatedExplicitVRLittleEndian)
    assert load(folder).shape == (1, 6, 4, 4)
    path = tmp_path / "series" / "0.dcm"
    content = path.read_bytes()
    start = 132 + 12 + dcmread(path).file_meta.FileMetaInformationGroupLength
    inflated = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + packer.compress(inflated + bytes(30_000_000)) + packer.flush())
    monkeypatch.setattr("common.dicom.series.MAX_INFLATED", 10_000_000)
    with pytest.raises(DicomError, match="a deflated file holds more than 10000000 bytes; export the series again"):
        load(folder)
    files = find_scans(folder)[0]["image"]
    with pytest.raises(DicomError, match="a deflated file holds more than"):
        load(files)
