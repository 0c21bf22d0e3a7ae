"""DICOM output, read back by highdicom and compared with the label map, the NIfTI and the verdict it was made from."""

import json
import logging
import re
import sys
from types import SimpleNamespace

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.config import disable_value_validation

from common.dicom_output import BundleDescription, Segment, describe_bundle, series_description, verdict_text
from common.errors import BundleError, ConfigError, DicomError, ImageError, MissingDataError, OutputError
from common.transforms import LoadScand, SaveSegmentationd

INSIDE = {"oodm": 0.012345678901234567, "threshold": 0.0456, "is_ood": False, "reason": None}
OUTSIDE = {"oodm": 1.5, "threshold": 0.0456, "is_ood": True, "reason": None}
UNKNOWN = {"oodm": None, "threshold": None, "is_ood": None, "reason": "no signature bank; fit one"}
PATIENT = {
    "PatientName": "Doe^Jane", "PatientID": "P-17", "PatientBirthDate": "19700102", "PatientSex": "F",
    "StudyDate": "20240305", "StudyTime": "101112", "StudyID": "S5", "AccessionNumber": "A9",
    "ReferringPhysicianName": "House^Gregory", "StudyDescription": "Head",
}  # fmt: skip
POSITIONS = [{"ImagePositionPatient": [10.0, 20.0, z]} for z in (5.0, 8.0, 11.0, 14.0)]


def oblique():
    """Tags of five slices that are tilted about two axes, 2.5 mm apart."""
    across, down = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, -0.8])
    positions = np.array([-12.0, 7.5, 31.0]) + 2.5 * np.arange(5)[:, None] * np.cross(across, down)
    orientation = [*across.tolist(), *down.tolist()]
    return [{"ImagePositionPatient": p.round(6).tolist(), "ImageOrientationPatient": orientation} for p in positions]


@pytest.fixture
def metadata_file(tmp_path):
    """Writes the metadata of a bundle called ``toy_ood`` and returns the path as text."""

    def write(classes=("organ",), **more):
        channels = {str(index): name for index, name in enumerate(("background", *classes))}
        content = {"name": "Toy segmentation", "version": "0.1.0", "authors": "Developers"}
        content["network_data_format"] = {"outputs": {"pred": {"channel_def": channels}}}
        path = tmp_path / "toy_ood" / "configs" / "metadata.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | more), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def load_series(tmp_path, save_slice):
    """Writes a series of slices with the given tags, and loads it; files are named in the order of the list."""

    def load(slices=POSITIONS, **tags):
        for index, own in enumerate(slices):
            save_slice(tmp_path / "series" / f"{index}.dcm", index, **(PATIENT | own | tags))
        return LoadScand("image")({"image": str(tmp_path / "series"), "case": "p1"})["image"]

    return load


@pytest.fixture
def save(tmp_path, metadata_file):
    """Saves labels ``(columns, rows, slices)`` of an image, and reads everything back."""

    def run(image, labels, result=INSIDE, **metadata):
        classes = metadata.pop("classes", ("organ",))
        transform = SaveSegmentationd(
            "pred", str(tmp_path / "out"), output_format="dicom_seg", metadata_file=metadata_file(classes, **metadata)
        )
        pred = MetaTensor(torch.as_tensor(labels)[None], meta=image.meta)
        data = {"pred": pred, "image": image, "case": "p1", "result": result}
        assert transform(data) == data
        return read_back(tmp_path / "out" / "p1", image)

    return run


def read_back(folder, image):
    with disable_value_validation():
        files = json.loads(image.meta["series_files"])
        return SimpleNamespace(
            seg=hd.seg.segread(folder / "p1_seg.dcm"),
            report=hd.sr.srread(folder / "p1_report.dcm"),
            nifti=nib.load(folder / "p1_seg.nii.gz"),
            headers=[pydicom.dcmread(file, stop_before_pixels=True) for file in files],
        )


def random_labels(image, classes=1):
    return np.random.default_rng(0).integers(0, classes + 1, tuple(image.shape[1:])).astype(np.uint8)


def labels_of(saved):
    """The label map that the SEG holds, ``(columns, rows, slices)``."""
    uids = [header.SOPInstanceUID for header in saved.headers]
    frames = saved.seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    return frames.T


def referenced(saved):
    """The slices to which the SEG's frames refer."""
    groups = saved.seg.PerFrameFunctionalGroupsSequence
    sources = [group.DerivationImageSequence[0].SourceImageSequence for group in groups]
    return {item.ReferencedSOPInstanceUID for items in sources for item in items}


def items(report):
    """Name -> value of the report's content, references aside."""
    return {
        item.name.meaning: item.value.meaning if item.value_type.value == "CODE" else item.value
        for item in report.content[0].ContentSequence
        if item.value_type.value != "IMAGE"
    }


def written(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("slices", [POSITIONS, oblique(), POSITIONS[::-1]], ids=["axial", "oblique", "descending"])
@pytest.mark.parametrize("classes", [1, 3])
def test_segmentation_comes_back_voxel_by_voxel_and_in_place(load_series, save, slices, classes):
    image = load_series(slices)
    labels = random_labels(image, classes)
    saved = save(image, labels, classes=("a", "b", "c")[:classes])
    assert_array_equal(labels_of(saved), labels)
    # Viewers see the volume, in mm, and not the order of files.
    volume = saved.seg.get_volume(combine_segments=True).to_patient_orientation("RAS")
    nifti = nib.as_closest_canonical(saved.nifti)
    assert_array_equal(volume.array, np.asarray(nifti.dataobj))
    assert_allclose(np.diag([-1, -1, 1, 1]) @ volume.affine, nifti.affine, atol=1e-5)
    assert len({tuple(header.ImagePositionPatient) for header in saved.headers}) == len(slices)


def test_only_slices_with_foreground_are_frames(load_series, save):
    image = load_series()
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[2:5, 1, 1:3] = 1
    saved = save(image, labels)
    assert saved.seg.NumberOfFrames == 2
    assert referenced(saved) == {header.SOPInstanceUID for header in saved.headers[1:3]}
    assert_array_equal(labels_of(saved), labels)
    (series,) = saved.seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3"
    named = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert named == [header.SOPInstanceUID for header in saved.headers]


def test_empty_segmentation_is_written(load_series, save):
    image = load_series()
    saved = save(image, np.zeros(image.shape[1:], np.uint8))
    assert labels_of(saved).shape == tuple(image.shape[1:])
    assert not labels_of(saved).any()
    assert [segment.SegmentLabel for segment in saved.seg.SegmentSequence] == ["organ"]
    assert items(saved.report)["Out of distribution"] == "No"


def test_absent_class_keeps_its_number_and_its_frames(load_series, save):
    image = load_series()
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[0, 0, 1], labels[3, 2, 2] = 1, 3
    saved = save(image, labels, classes=("a", "b", "c"))
    assert [(int(s.SegmentNumber), s.SegmentLabel) for s in saved.seg.SegmentSequence] == [(1, "a"), (2, "b"), (3, "c")]
    assert_array_equal(labels_of(saved), labels)
    groups = saved.seg.PerFrameFunctionalGroupsSequence
    numbers = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups]
    assert sorted(numbers) == [1] * 4 + [2] * 4 + [3] * 4


def test_segments_carry_codes_and_algorithm(load_series, save):
    image = load_series()
    codes = {"2": {"category": ["49755003", "SCT", "Lesion"], "type": ["108369006", "SCT", "Neoplasm"]}}
    saved = save(image, random_labels(image, 2), classes=("organ", "t\u00fcmor"), dicom_codes=codes)
    first, second = saved.seg.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("organ", "t?mor")
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"
    assert {segment.SegmentAlgorithmType for segment in (first, second)} == {"AUTOMATIC"}
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Toy segmentation", "0.1.0")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert (saved.seg.SegmentationType, saved.seg.ContentQualification) == ("BINARY", "RESEARCH")
    assert saved.seg.ContentDescription == "Research software. Not for clinical use."


def test_files_belong_to_the_patient_and_study_of_the_series(load_series, save):
    image = load_series()
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        assert {name: str(document[name].value) for name in PATIENT} == PATIENT
        assert document.StudyInstanceUID == "1.2"
    series = [document.SeriesInstanceUID for document in (saved.headers[0], saved.seg, saved.report)]
    assert len(set(series)) == 3
    assert (saved.seg.SeriesNumber, saved.report.SeriesNumber) == (9001, 9002)


def test_missing_tags_are_filled_and_stay_empty(load_series, save):
    image = load_series(**dict.fromkeys(PATIENT, ...))
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        filled = [name for name in PATIENT if name != "StudyDescription"]
        assert [document[name].is_empty for name in filled] == [True] * len(filled)
        assert "StudyDescription" not in document
    measures = saved.seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (3, 3)


def test_missing_frame_of_reference_is_the_same_in_every_file(load_series, save):
    image = load_series()
    first, second = (save(image, random_labels(image)).seg for _ in range(2))
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    image = load_series(FrameOfReferenceUID="1.2.3.99")
    assert save(image, random_labels(image)).seg.FrameOfReferenceUID == "1.2.3.99"


def test_thickness_is_the_scanners_and_spacing_is_measured(load_series, save):
    image = load_series(SliceThickness=2.0, SpacingBetweenSlices=-7.0)
    seg = save(image, random_labels(image)).seg
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2, 3)
    assert list(measures.PixelSpacing) == [0.7, 0.5]


def test_orientations_that_differ_in_the_last_digits_are_one(load_series, save):
    slices = [tags | {"ImageOrientationPatient": [1, 1e-5 * k, 0, 0, 1, 0]} for k, tags in enumerate(POSITIONS)]
    image = load_series(slices)
    labels = random_labels(image)
    assert_array_equal(labels_of(save(image, labels)), labels)


def test_odd_attributes_of_the_patient_go_on_as_they_are_and_nowhere_else(load_series, save, caplog, capfd):
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
def test_names_keep_their_character_set(load_series, save, charset, name):
    image = load_series(SpecificCharacterSet=charset, PatientName=name)
    saved = save(image, random_labels(image))
    for document in (saved.seg, saved.report):
        assert document.PatientName == name
        assert document.SpecificCharacterSet == saved.headers[0].SpecificCharacterSet


@pytest.mark.parametrize(
    ("result", "text", "word"),
    [
        (INSIDE, "toy_ood 0.1.0: in distribution, OODM 0.01235 (limit 0.0456)", "in distribution"),
        (OUTSIDE, "toy_ood 0.1.0: OUT OF DISTRIBUTION, OODM 1.5 (limit 0.0456)", "OUT OF DISTRIBUTION"),
        (UNKNOWN, "toy_ood 0.1.0: NO VERDICT", "NO VERDICT"),
        (None, "toy_ood 0.1.0: NO VERDICT", "NO VERDICT"),
    ],
)
def test_series_descriptions_carry_the_verdict(load_series, save, result, text, word):
    image = load_series()
    saved = save(image, random_labels(image), result)
    assert saved.seg.SeriesDescription == text
    assert saved.report.SeriesDescription == f"toy_ood 0.1.0: report, {word}"


@pytest.mark.parametrize(("result", "answer"), [(INSIDE, "No"), (OUTSIDE, "Yes")])
def test_report_holds_the_verdict_digit_by_digit(load_series, save, result, answer):
    image = load_series()
    content = items(save(image, random_labels(image), result).report)
    assert content["Out-of-distribution measure (OODM)"] == result["oodm"]
    assert content["Threshold of the OODM"] == result["threshold"]
    assert content["Out of distribution"] == answer
    assert content["Conclusion"].startswith(f"{verdict_text(result)}. The OODM ")
    assert content["Comment"] == "Research software. Not for clinical use."
    assert content["Algorithm Name"] == "Toy segmentation (toy_ood)"
    assert content["Algorithm Version"] == "0.1.0"
    assert content["Source series for segmentation"] == "1.2.3"
    assert "Reason why there is no verdict" not in content


@pytest.mark.parametrize(
    ("result", "reason"), [(UNKNOWN, "no signature bank; fit one"), (None, "no signature was computed")]
)
def test_report_without_a_verdict_tells_why(load_series, save, result, reason):
    image = load_series()
    content = items(save(image, random_labels(image), result).report)
    assert content["Reason why there is no verdict"] == reason
    assert content["Out of distribution"] == "Indeterminate"
    assert content["Conclusion"].startswith("NO VERDICT. ")
    assert not [name for name in content if "OODM" in name]


def test_report_refers_to_series_and_segmentation(load_series, save):
    image = load_series()
    saved = save(image, random_labels(image))
    slices = {("1.2", "1.2.3", header.SOPInstanceUID) for header in saved.headers}
    made = ("1.2", saved.seg.SeriesInstanceUID, saved.seg.SOPInstanceUID)
    assert {item[:3] for item in saved.report.get_evidence()} == slices | {made}
    (shown,) = [item for item in saved.report.content[0].ContentSequence if item.value_type.value == "IMAGE"]
    assert shown.referenced_sop_instance_uid == saved.seg.SOPInstanceUID
    assert (saved.report.VerificationFlag, saved.report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def bundle_called(name, version="0.1.0"):
    return BundleDescription(name, "Title", version, "Authors", (Segment(1, "organ"),))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spectral_ood", "spectral_ood: OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456)"),
        ("a" * 9, "a" * 9 + " 0.1.0: OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456)"),
        ("b" * 16, "b" * 16 + ": OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456)"),
        ("c" * 17, "c" * 14 + "..: OUT OF DISTRIBUTION, OODM 1.234 (limit 0.0456)"),
    ],
)
def test_long_names_give_way_to_the_verdict(name, text):
    verdict = verdict_text({"oodm": 1.234, "threshold": 0.0456, "is_ood": True})
    assert series_description(bundle_called(name), verdict) == text


@pytest.mark.parametrize("number", [0.0, 1e-300, 0.99999, 123456789.0])
@pytest.mark.parametrize("is_ood", [True, False, None])
def test_series_description_never_cuts_the_verdict(number, is_ood):
    for length in (*range(1, 70), 300):
        verdict = verdict_text({"oodm": number, "threshold": number, "is_ood": is_ood})
        for version in ("0.1.0", "1.22.333-beta+build.7777"):
            text = series_description(bundle_called(("n\u00e4me\\" * length)[:length], version), verdict)
            assert text.endswith(f": {verdict}")
            assert len(text) <= 64
            assert text.isascii()
            assert "\\" not in text


def test_metadata_tell_bundle_and_segments(metadata_file):
    codes = {"1": {"type": ["5366008", "SCT", "Hippocampus"]}}
    described = describe_bundle(metadata_file(("a", "b"), dicom_codes=codes))
    assert (described.name, described.title, described.version) == ("toy_ood", "Toy segmentation", "0.1.0")
    assert [(segment.number, segment.label) for segment in described.segments] == [(1, "a"), (2, "b")]
    assert [segment.kind[2] for segment in described.segments] == ["Hippocampus", "Tissue"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"dicom_codes": {"1": {"type": ["5366008", "Hippocampus"]}}},
            r"metadata\.json does not describe .*ValueError",
        ),
        ({"dicom_codes": {"1": {"type": [5366008, "SCT", "Hippocampus"]}}}, "is no code"),
        ({"dicom_codes": ["5366008"]}, "does not describe the segments"),
        ({"network_data_format": {}}, "KeyError: 'outputs'"),
        ({"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "a", "2": "b"}}}}}, r"classes \[2\]"),
        ({"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "a"}}}}}, r"classes \[\]"),
    ],
)
def test_metadata_that_describe_no_segments_are_named(metadata_file, more, text):
    with pytest.raises(ConfigError, match=text):
        describe_bundle(metadata_file(**more))


def test_missing_metadata_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"absent\.json does not exist"):
        describe_bundle(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"output_format": "dicom"}, "output_format is 'dicom'; accepted are nifti, dicom_seg"),
        ({"output_format": "dicom_seg", "spatial_dims": 2}, "spatial_dims is 2; use output_format nifti"),
        ({"output_format": "dicom_seg", "metadata_file": None}, "needs metadata_file"),
    ],
)
def test_impossible_formats_are_refused_before_anything_is_computed(tmp_path, metadata_file, settings, text):
    with pytest.raises(ConfigError, match=text):
        SaveSegmentationd("pred", str(tmp_path), **({"metadata_file": metadata_file()} | settings))


def test_missing_highdicom_is_named_with_its_command(tmp_path, metadata_file, monkeypatch, repository):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert SaveSegmentationd("pred", str(tmp_path), metadata_file=metadata_file()).bundle is None
    with pytest.raises(ConfigError, match="package highdicom, which cannot be imported") as caught:
        SaveSegmentationd("pred", str(tmp_path), output_format="dicom_seg", metadata_file=metadata_file())
    wanted = re.search(r"'pip install (\S+)'", str(caught.value)).group(1)
    assert wanted in (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()


def fails(save, image, labels, kind):
    with pytest.raises(kind) as caught:
        save(image, labels)
    text = str(caught.value)
    assert isinstance(caught.value, BundleError)
    assert "\n" not in text
    assert not re.search(r"Doe|P-17|1970|House", text)
    assert caught.value.__cause__ is None or kind is OutputError
    return text


def test_scan_that_is_no_series_is_refused_after_its_nifti(tmp_path, save_nifti, save):
    path = save_nifti(tmp_path / "a.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    image = LoadScand("image")({"image": path, "case": "p1"})["image"]
    text = fails(save, image, random_labels(image), ImageError)
    assert text.startswith("case 'p1': output_format dicom_seg needs a DICOM series as input")
    assert written(tmp_path) == ["p1_seg.nii.gz"]
    assert_array_equal(nib.load(tmp_path / "out" / "p1" / "p1_seg.nii.gz").get_fdata(), random_labels(image))


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"kind": "1.2.840.99"}, r"no DICOM file can be made from the headers .*\(KeyError\)"),
        ({"StudyInstanceUID": ...}, "slices of the source series have no StudyInstanceUID"),
        ({"SOPInstanceUID": ""}, "slices of the source series have no SOPInstanceUID"),
    ],
)
def test_headers_that_are_not_accepted_leave_the_nifti_alone(tmp_path, load_series, save, tags, text):
    image = load_series(**tags)
    error = fails(save, image, random_labels(image), DicomError)
    assert re.search(f"^case 'p1': {text}", error)
    assert written(tmp_path) == ["p1_seg.nii.gz"]


def test_series_that_has_gone_is_named(tmp_path, load_series, save):
    image = load_series()
    (tmp_path / "series" / "2.dcm").unlink()
    assert "(FileNotFoundError)" in fails(save, image, random_labels(image), DicomError)
    assert written(tmp_path) == ["p1_seg.nii.gz"]


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_segmentation_off_the_slices_is_refused(tmp_path, load_series, save, change):
    image = load_series()
    labels = random_labels(image)
    if change == "shape":
        labels = labels[:, :, 1:]
    else:
        image.affine[2, 3] += 2
    assert "does not lie on the slices" in fails(save, image, labels, DicomError)
    assert written(tmp_path) == ["p1_seg.nii.gz"]


def test_class_without_a_name_is_refused(load_series, save):
    image = load_series()
    text = fails(save, image, random_labels(image, 2), ConfigError)
    assert "holds class 2, metadata.json names 1 in channel_def" in text


@pytest.mark.parametrize("blocked", ["p1_seg.dcm", "p1_report.dcm"])
def test_failed_write_leaves_no_half_file(tmp_path, load_series, save, blocked):
    image = load_series()
    (tmp_path / "out" / "p1" / blocked).mkdir(parents=True)
    assert f"cannot write {tmp_path}/out/p1/{blocked}" in fails(save, image, random_labels(image), OutputError)
    expected = ["p1_seg.dcm", "p1_seg.nii.gz"] if blocked == "p1_report.dcm" else ["p1_seg.nii.gz"]
    assert written(tmp_path) == expected
