"""What cannot become DICOM: each is refused in one line that names no patient, and the NIfTI stays."""

import re
import sys
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal

from common.errors import ConfigError
from common.transforms import LoadScand, SaveSegmentationd


def written(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.fixture
def fails(save, caplog):
    """Saves what cannot become DICOM and returns its error: one line, which is also the log's."""

    def run(image, labels):
        text = save(image, labels)
        assert isinstance(text, str)
        assert "\n" not in text
        assert text.startswith("case 'p1': ")
        assert not re.search(r"Doe|P-17|1970|House", caplog.text)
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [text]
        return text

    return run


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


def test_scan_that_is_no_series_is_refused_after_its_nifti(tmp_path, save_nifti, fails, random_labels):
    path = save_nifti(tmp_path / "a.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    image = LoadScand("image")({"image": path, "case": "p1"})["image"]
    text = fails(image, random_labels(image))
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
def test_headers_that_are_not_accepted_leave_the_nifti_alone(tmp_path, load_series, fails, random_labels, tags, text):
    image = load_series(**tags)
    error = fails(image, random_labels(image))
    assert re.search(f"^case 'p1': {text}", error)
    assert written(tmp_path) == ["p1_seg.nii.gz"]


def test_series_that_has_gone_is_named(tmp_path, load_series, fails, random_labels):
    image = load_series()
    (tmp_path / "series" / "2.dcm").unlink()
    assert "(FileNotFoundError)" in fails(image, random_labels(image))
    assert written(tmp_path) == ["p1_seg.nii.gz"]


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_segmentation_off_the_slices_is_refused(tmp_path, load_series, fails, random_labels, change):
    image = load_series()
    labels = random_labels(image)
    if change == "shape":
        labels = labels[:, :, 1:]
    else:
        image.affine[2, 3] += 2
    assert "does not lie on the slices" in fails(image, labels)
    assert written(tmp_path) == ["p1_seg.nii.gz"]


def test_class_without_a_name_is_refused(load_series, fails, random_labels):
    image = load_series()
    text = fails(image, random_labels(image, 2))
    assert "holds class 2, metadata.json names 1 in channel_def" in text


@pytest.mark.parametrize("blocked", ["p1_seg.dcm", "p1_report.dcm"])
def test_failed_write_leaves_no_half_file(tmp_path, load_series, fails, random_labels, blocked):
    image = load_series()
    (tmp_path / "out" / "p1" / blocked).mkdir(parents=True)
    assert f"case 'p1': cannot write {tmp_path}/out/p1/{blocked}" in fails(image, random_labels(image))
    expected = ["p1_seg.dcm", "p1_seg.nii.gz"] if blocked == "p1_report.dcm" else ["p1_seg.nii.gz"]
    assert written(tmp_path) == expected


def test_unknown_character_set_of_the_source_is_not_repeated(tmp_path, load_series, save, random_labels, caplog):
    image = load_series()
    for path in (tmp_path / "series").iterdir():
        header = pydicom.dcmread(path)
        header.add_new("SpecificCharacterSet", "CS", "ISO_IR 192")
        header.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"DOE_ISOIR "))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        try:
            save(image, random_labels(image))
        finally:
            texts = [str(warning.message) for warning in shown]
    assert "p1_seg.dcm" in written(tmp_path)
    assert [text for text in texts if "DOE" in text] == []
    assert [record.name for record in caplog.records if record.name.startswith("pydicom")] == []
