"""Attributes of patient and study: they go on into SEG and report as they are, and nowhere else."""

import logging
import re

import pytest
from pydicom.config import disable_value_validation


def test_files_belong_to_the_patient_and_study_of_the_series(load_series, save, random_labels, patient):
    image = load_series()
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        assert {name: str(document[name].value) for name in patient} == patient
        assert document.StudyInstanceUID == "1.2"
    series = [document.SeriesInstanceUID for document in (saved.headers[0], saved.seg, saved.report)]
    assert len(set(series)) == 3
    assert (saved.seg.SeriesNumber, saved.report.SeriesNumber) == (9001, 9002)


def test_missing_tags_are_filled_and_stay_empty(load_series, save, random_labels, patient):
    image = load_series(**dict.fromkeys(patient, ...))
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        filled = [name for name in patient if name != "StudyDescription"]
        assert [document[name].is_empty for name in filled] == [True] * len(filled)
        assert "StudyDescription" not in document
    measures = saved.seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (3, 3)


def test_odd_attributes_of_the_patient_go_on_as_they_are_and_nowhere_else(
    load_series, save, random_labels, caplog, capfd
):
    """A name without a caret, an ID too long, a date that is none: warnings, errors in tests, would tell of them."""
    odd = {"PatientName": "Doe", "PatientID": "P-17" * 20, "PatientSex": "unknown", "PatientBirthDate": "1970-01-02"}
    with disable_value_validation():
        image = load_series(**odd)
    with caplog.at_level(logging.INFO):
        saved = save(image, random_labels(image))
    with disable_value_validation():
        for document in (saved.seg, saved.report):
            assert {name: str(document[name].value) for name in odd} == odd
    shown = caplog.text + "".join(capfd.readouterr())
    assert not re.search(r"Doe|unknown|1970|P-17|1\.2\.3", shown)
    assert not [record for record in caplog.records if record.name.startswith("highdicom")]


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "M\u00fcller^J\u00f6rg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")]
)
def test_names_keep_their_character_set(load_series, save, random_labels, charset, name):
    image = load_series(SpecificCharacterSet=charset, PatientName=name)
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        assert document.PatientName == name
        assert document.SpecificCharacterSet == saved.headers[0].SpecificCharacterSet
