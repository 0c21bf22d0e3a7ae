"""DICOM output by the command line: what a hospital asks for with ``--output_format dicom_seg``."""

import json
import os
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from common.runtime.model_settings import SETTINGS_FILE

DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-")
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "spectral_ood"
OODM, THRESHOLD = "Out-of-distribution measure (OODM)", "Threshold of the OODM"


def series_case(output):
    """The name of the one case that is a DICOM series, which has nothing of the names of its files."""
    (folder,) = {path.parent for path in output.rglob("*.dcm")}
    return folder.name


def read_case(output):
    """SEG, report and NIfTI of the series."""
    case = series_case(output)
    stem = output / case / case
    seg, report = hd.seg.segread(f"{stem}_seg.dcm"), hd.sr.srread(f"{stem}_report.dcm")
    return seg, report, nib.as_closest_canonical(nib.load(f"{stem}_seg.nii.gz"))


def read_row(output, case):
    """The line of ``ood_report.json`` on a case."""
    rows = json.loads((output / "ood_report.json").read_text(encoding="utf-8"))["rows"]
    return next(row for row in rows if row["image"] == case)


def contents(report):
    """Name -> value of what a report says."""
    items = report.content[0].ContentSequence
    return {item.name.meaning: item.value for item in items if item.value_type.value in ("NUM", "TEXT", "CODE")}


def read_headers(folder):
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]


def assert_refers(seg, report, headers):
    """Both files belong to the study of the series, name its slices, and nothing but them."""
    slices = {header.SOPInstanceUID for header in headers}
    named = {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence}
    evidence = {uids[2] for uids in report.get_evidence()}
    assert named == slices
    assert evidence == slices | {seg.SOPInstanceUID}
    for document in (seg, report):
        for name in ("StudyInstanceUID", "PatientID", "PatientName"):
            assert document[name].value == headers[0][name].value


@pytest.fixture(scope="module")
def patient_series(configs, make_scan, write_series, tmp_path_factory):
    """A folder with a tilted series of a patient with a name, and the same scan as NIfTI."""
    if "output_format" not in configs["inference"]:
        pytest.skip("no DICOM output")
    folder = tmp_path_factory.mktemp("scans")
    image = make_scan(3, (18, 15, 11))[0]
    affine = write_series(folder / "series", image, tilt=0.3)
    for path in (folder / "series").iterdir():
        header = pydicom.dcmread(path)
        header.StudyInstanceUID, header.PatientID, header.PatientName = "1.2.826.0.7", "P-17", "Doe"
        header.save_as(path)
    nib.save(nib.Nifti1Image(image, affine), folder / "plain.nii.gz")
    return folder


@pytest.fixture(scope="module")
def converted(bundle, patient_series, trained, run_command, tmp_path_factory):
    """The output folder and the finished process."""
    output = tmp_path_factory.mktemp("converted")
    result = run_command(
        bundle, "inference.json", cwd=tmp_path_factory.mktemp("elsewhere"), check=False, dataset_dir=patient_series,
        model_dir=trained.models, output_dir=output, output_format="dicom_seg",
    )  # fmt: skip
    return output, result


def test_series_gets_a_segmentation_that_overlays_its_nifti(converted, patient_series, configs, trained):
    seg, report, nifti = read_case(converted[0])
    headers = read_headers(patient_series / "series")
    assert_refers(seg, report, headers)
    channels = configs["metadata"]["network_data_format"]["outputs"]["pred"]["channel_def"]
    end = " (OUT OF DISTRIBUTION)" if seg.SeriesDescription.startswith("OUT") else ""
    settings = json.loads((trained.models / SETTINGS_FILE).read_text(encoding="utf-8"))
    names = settings.get("class_names", channels)
    labels = [f"{names[key]}{end}" for key in sorted(names) if key != "0"]
    assert [item.SegmentLabel for item in seg.SegmentSequence] == labels
    # Codes belong to the classes of the shipped weights.
    codes = configs["metadata"]["dicom_codes"]["1"]["type"]
    found = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning
    assert (found == codes[2]) == (names["1"] == channels["1"])
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True).to_patient_orientation("RAS")
    # Slices without foreground are no frames, so the volume may be a part of the NIfTI's.
    lps = np.diag([-1.0, -1, 1, 1])
    start = np.rint(np.linalg.inv(nifti.affine) @ lps @ volume.affine[:, 3]).astype(int)[:3]
    part = tuple(slice(first, first + length) for first, length in zip(start, volume.spatial_shape, strict=True))
    assert_allclose((lps @ volume.affine)[:3, :3], nifti.affine[:3, :3], atol=1e-4)
    assert_allclose((lps @ volume.affine)[:, 3], nifti.affine @ [*start, 1], atol=1e-4)
    expected = np.asarray(nifti.dataobj)
    assert_array_equal(volume.array, expected[part])
    assert volume.array.sum() == expected.sum() > 0


def test_verdict_is_that_of_the_table(converted, judges):
    seg, report, _ = read_case(converted[0])
    said, row = contents(report), read_row(converted[0], series_case(converted[0]))
    if not judges:
        assert seg.SeriesDescription.startswith("NO VERDICT: ")
        return
    assert (said[OODM], said[THRESHOLD]) == (row["oodm"], row["threshold"])
    assert said["Out of distribution"].meaning == ("Yes" if row["is_ood"] else "No")
    word = "OUT OF DISTRIBUTION" if row["is_ood"] else "in distribution"
    assert seg.SeriesDescription.startswith(f"{word}, OODM {row['oodm']:.4g} (limit {row['threshold']:.4g}): ")
    assert report.SeriesDescription.startswith(f"{word}, report: ")


def test_scan_that_is_no_series_keeps_its_nifti_and_fails(converted):
    output, result = converted
    case = series_case(output)
    assert result.returncode == 1
    assert "case 'plain': output_format dicom_seg needs a DICOM series as input" in read_row(output, "plain")["error"]
    assert read_row(output, case)["error"] is None
    # The same scan has the same verdict, which is not lost with the output. DICOM rounds intensities, which shows in
    # the image's own signature.
    for name, tolerance in (("oodm", 0.3), ("threshold", 1e-9), ("is_ood", 0)):
        assert read_row(output, "plain")[name] == pytest.approx(read_row(output, case)[name], rel=tolerance)
    assert [path.name for path in (output / "plain").iterdir()] == ["plain_seg.nii.gz"]
    names = sorted(path.name for path in (output / case).iterdir())
    assert names == [f"{case}_report.dcm", f"{case}_seg.dcm", f"{case}_seg.nii.gz"]
    plain, series = (nib.load(output / name / f"{name}_seg.nii.gz") for name in ("plain", case))
    assert_allclose(plain.affine, series.affine, atol=1e-4)
    assert plain.shape == series.shape


def test_log_tells_nothing_of_the_patient(converted):
    text = converted[1].stdout + converted[1].stderr
    assert "case 'plain'" in text
    assert not [word for word in ("Doe", "P-17", "1.2.826.0.7") if word in text]


def test_unknown_format_is_refused(bundle, configs, fail_config, dataset, trained, tmp_path):
    if "output_format" not in configs["inference"]:
        pytest.skip("no DICOM output")
    error = fail_config(
        bundle, "inference.json", dataset_dir=dataset, model_dir=trained.models, output_dir=tmp_path,
        output_format="dicom",
    )  # fmt: skip
    assert str(error) == "output_format is 'dicom'; accepted are nifti, dicom_seg"
    assert not list(tmp_path.rglob("*_seg*"))


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="MEDICAL_DATA_DIR names no folder of real scans")
def test_real_series_gets_a_segmentation_that_overlays_its_nifti(run_config, tmp_path):
    run_config(
        BUNDLE, "inference.json", tiny=False, dataset_dir=DATA / "dicom", output_dir=tmp_path, output_format="dicom_seg"
    )
    seg, report, nifti = read_case(tmp_path)
    headers = sorted(read_headers(DATA / "dicom" / "hippocampus_crop"), key=lambda item: item.ImagePositionPatient[2])
    assert_refers(seg, report, headers)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["hippocampus"]
    uids = [header.SOPInstanceUID for header in headers]
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    # From slices, rows, columns, counted to the left and back, to the axes of the canonical NIfTI.
    found, expected = frames.T[::-1, ::-1] > 0, np.asarray(nifti.dataobj) > 0
    assert expected.sum() > 500
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) == 1
    row, said = read_row(tmp_path, series_case(tmp_path)), contents(report)
    assert (said[OODM], said[THRESHOLD]) == (row["oodm"], row["threshold"])
    assert said["Comment"] == "Research software. Not for clinical use."
