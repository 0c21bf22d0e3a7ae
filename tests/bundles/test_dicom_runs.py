"""Inference of ``spectral_ood`` on an export of a PACS: good and broken series, and what belongs to no series."""

import csv
import hashlib
import json
import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from common.dicom.series import series_name

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "spectral_ood"
# uid -> folder, and slices that are missing
SERIES = {
    "1.2.3.1": ("DOE^JANE_P4711/CT/A", ()),
    "1.2.3.2": ("DOE^JANE_P4711/CT/B/C", (3,)),
    "1.2.3.3": ("MR", ()),
    "1.2.3.4": ("DOE^JANE_P4711/MR", ()),
}
GAP, TRUNCATED = "1.2.3.2", "1.2.3.4"
SECRETS = ("DOE", "JANE", "P4711")


@pytest.fixture(scope="module")
def exported(make_scan, write_series, tmp_path_factory):
    """The export, and the affine of each series."""
    root = tmp_path_factory.mktemp("export")
    image = make_scan(1, (16, 15, 9))[0]
    affines = {}
    for uid, (folder, skip) in SERIES.items():
        affines[uid] = write_series(root / folder, image, uid=uid, skip=skip)
    for path in root.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID = "DOE^JANE", "P4711"
        data.save_as(path)
        # As a PACS names its files.
        path.rename(path.with_suffix(""))
    cut = root / SERIES[TRUNCATED][0] / "95_4"
    cut.write_bytes(cut.read_bytes()[:-50])
    report = pydicom.dcmread(root / "MR" / "99_3")
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = pydicom.uid.ComprehensiveSRStorage
    report.SeriesInstanceUID = "1.2.3.9"
    del report.PixelData
    report.save_as(root / "MR" / "DOE")
    (root / "README.txt").write_text("burned by a PACS")
    return root, affines


@pytest.fixture(scope="module")
def segmented(exported, make_dataset, run_config, fail_config, tmp_path_factory):
    """The outputs of a run, its error, and its log."""
    folder = tmp_path_factory.mktemp("runs")
    trained = {"output_dir": folder / "train", "model_dir": folder / "models"}
    run_config(BUNDLE, "train.json", dataset_dir=make_dataset(folder / "data"), **trained)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(handler.format(record))
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    try:
        error = fail_config(
            BUNDLE, "inference.json", dataset_dir=exported[0], output_dir=folder / "out", model_dir=folder / "models"
        )
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    return folder / "out", error, "\n".join(records)


def read_rows(output):
    with open(output / "ood_report.csv", newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_run_ends_with_the_number_of_failures(segmented):
    kinds = {kind.__name__ for kind in type(segmented[1]).__mro__}
    assert kinds >= {"CasesFailedError", "RuntimeError"}
    assert "2 of 4 case(s) failed, the others are complete" in str(segmented[1])


@pytest.mark.tried(
    "DICOM",
    "Broken series beside good ones, in every bundle",
    "A row for each; the good ones are segmented in their geometry.",
)
def test_every_series_is_a_row_and_broken_ones_say_why(segmented):
    rows = read_rows(segmented[0])
    assert set(rows) == {series_name(uid) for uid in SERIES}
    reasons = {uid: rows[series_name(uid)]["error"] for uid in SERIES}
    assert reasons["1.2.3.1"] == reasons["1.2.3.3"] == ""
    assert reasons[GAP] == (
        f"{series_name(GAP)}: gaps between slices from 2.500 to 5.000 mm; a slice is missing or the spacing varies: "
        "send the whole series"
    )
    assert reasons[TRUNCATED].startswith(f"{series_name(TRUNCATED)}: slice 5 of 9 with SOPInstanceUID ")
    assert reasons[TRUNCATED].endswith(
        "has no readable pixels (its values or the length of its data are not valid); it may be truncated: export the "
        "series again"
    )
    for uid in SERIES:
        judged = bool(rows[series_name(uid)]["oodm"])
        assert judged == (uid not in (GAP, TRUNCATED))


def test_good_series_are_segmented_in_their_geometry(segmented, exported):
    written = {path.name for path in segmented[0].rglob("*.nii.gz")}
    assert written == {f"{series_name(uid)}_seg.nii.gz" for uid in ("1.2.3.1", "1.2.3.3")}
    for uid in ("1.2.3.1", "1.2.3.3"):
        name = series_name(uid)
        segmentation = nib.load(segmented[0] / name / f"{name}_seg.nii.gz")
        assert segmentation.shape == (16, 15, 9)
        np.testing.assert_allclose(segmentation.affine, exported[1][uid], atol=1e-4)


def digest(path):
    """What stands for a path in a listing."""
    return f"path_{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def test_listing_tells_which_series_is_which_and_what_was_skipped(segmented):
    content = json.loads((segmented[0] / "dicom_series.json").read_text(encoding="utf-8"))
    expected = [
        {
            "case": series_name(uid),
            "series_instance_uid": uid,
            "study_instance_uid": "",
            "modality": "MR",
            "folder": digest(folder),
            "files": 9 - len(skip),
        }
        for uid, (folder, skip) in sorted(SERIES.items(), key=lambda item: item[1][0])
    ]
    skipped = [
        {"file": digest("MR/DOE"), "reason": "no pixel data (Comprehensive SR)"},
        {"file": digest("README.txt"), "reason": "neither DICOM nor a file that ends as an image does"},
    ]
    assert content == {"series": expected, "skipped": skipped}
    everything = json.loads((segmented[0] / "skipped_files.json").read_text(encoding="utf-8"))
    assert everything == {"skipped": skipped}


def test_nothing_tells_the_patient(segmented):
    output, error, log = segmented
    assert "4 DICOM series of 35 files\n2 file(s) of dataset_dir are not used: " in log
    assert log.endswith(f"; 2 file(s) were not used, see {output / 'skipped_files.json'}")
    files = [path for ending in ("csv", "json", "html") for path in output.glob(f"*.{ending}")]
    # The letters of a picture are random: every name of three letters is among them.
    results = {path.name: re.sub('base64,[^"]*', "", path.read_text(encoding="utf-8")) for path in files}
    tables = {"dicom_series.json", "ood_report.csv", "ood_report.json", "skipped_files.json"}
    assert set(results) == tables | {"report.html"}
    names = "".join(path.name for path in output.rglob("*"))
    for text in (log, str(error), names, *results.values()):
        assert [secret for secret in SECRETS if secret in text] == []
