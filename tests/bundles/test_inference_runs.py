"""Inference of every 3-D bundle on a folder of all kinds of scans, by the command line from an unrelated folder."""

import csv
import hashlib
import json
import re

import itk
import nibabel as nib
import numpy as np
import pytest

from common.dicom.series import series_name

SERIES = series_name("1.2.826.0.1")
COLUMNS = ["image", "oodm", "threshold", "is_ood", "error"]
OBLIQUE = np.array([[0.8, -0.45, 0, 12], [0.6, 0.6, 0, -7], [0, 0, -2, 3.5], [0, 0, 0, 1]])


def write_itk(path, array):
    """Writes an array (axes i, j, k) with spacing, origin and direction of its own; returns its affine (RAS)."""
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing([0.7, 0.9, 1.5])
    image.SetOrigin([5.0, -3.0, 11.0])
    image.SetDirection(itk.matrix_from_array(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])))
    itk.imwrite(image, str(path))
    affine = np.array([[0.0, 0.9, 0, 5], [0.7, 0, 0, -3], [0, 0, 1.5, 11], [0, 0, 0, 1]])
    return np.diag([-1.0, -1, 1, 1]) @ affine  # LPS to RAS


@pytest.fixture(scope="session")
def scans(configs, make_scan, write_series, tmp_path_factory):
    """A folder with an oblique NIfTI, an MHA, an NRRD and a tilted DICOM series; name -> shape and affine."""
    if configs["inference"]["spatial_dims"] != 3:
        pytest.skip("a 2-D bundle")
    folder = tmp_path_factory.mktemp("scans")
    shapes = {"oblique": (20, 17, 13), "first": (15, 18, 12), "second": (19, 14, 16), SERIES: (18, 15, 11)}
    images = {name: make_scan(index, shape)[0] for index, (name, shape) in enumerate(shapes.items())}
    nib.save(nib.Nifti1Image(images["oblique"], OBLIQUE), folder / "oblique.nii.gz")
    affines = {
        "oblique": OBLIQUE,
        "first": write_itk(folder / "first.mha", images["first"]),
        "second": write_itk(folder / "second.nrrd", images["second"]),
        SERIES: write_series(folder / "study" / "series", images[SERIES], tilt=0.3),
    }
    return folder, {name: (shapes[name], affines[name]) for name in shapes}


@pytest.fixture(scope="session")
def segmented(bundle, scans, trained, run_command, tmp_path_factory):
    output = tmp_path_factory.mktemp("segmented")
    # The folder stood in is not the one written to: a relative path in a config would show.
    run_command(
        bundle, "inference.json", cwd=tmp_path_factory.mktemp("elsewhere"),
        dataset_dir=scans[0], model_dir=trained.models, output_dir=output,
    )  # fmt: skip
    return output


@pytest.mark.parametrize("name", ["oblique", "first", "second", SERIES])
@pytest.mark.tried(
    "Where a mask lies",
    "Scans of every accepted format",
    "The segmentation has the geometry of its scan.",
)
def test_segmentation_has_the_geometry_of_its_scan(scans, segmented, configs, name):
    shape, affine = scans[1][name]
    segmentation = nib.load(segmented / name / f"{name}_seg.nii.gz")
    assert segmentation.shape == shape
    np.testing.assert_allclose(segmentation.affine, affine, atol=1e-4)
    classes = configs["metadata"]["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert segmentation.get_data_dtype() == np.uint8
    assert set(np.unique(segmentation.dataobj)) <= set(map(int, classes))


def test_nothing_else_is_written(scans, segmented):
    files = {path.relative_to(segmented).as_posix() for path in segmented.rglob("*") if path.is_file()}
    files = {name for name in files if not re.fullmatch(r"\w+\.png", name)}
    assert files == {f"{name}/{name}_seg.nii.gz" for name in scans[1]} | {
        "dicom_series.json", "ood_report.csv", "ood_report.json", "ood_report.jsonl", "report.html"
    }  # fmt: skip


def test_report_has_a_line_for_every_scan(scans, segmented, judges):
    with open(segmented / "ood_report.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames[: len(COLUMNS)] == COLUMNS
    assert sorted(row["image"] for row in rows) == sorted(scans[1])
    for row in rows if judges else ():
        assert row["error"] == ""
        assert (float(row["oodm"]) > float(row["threshold"])) == (row["is_ood"] == "True")


def test_both_reports_agree(segmented, trained, judges):
    if not judges:
        pytest.skip("this bundle gives no verdict")
    with open(segmented / "ood_report.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    report = json.loads((segmented / "ood_report.json").read_text(encoding="utf-8"))
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in report["rows"]]
    assert as_text == table
    assert all(type(row["oodm"]) is float and type(row["is_ood"]) is bool for row in report["rows"])
    assert report["bank_digest"] == hashlib.sha256((trained.models / "signature_bank.npz").read_bytes()).hexdigest()


def test_verdict_does_not_depend_on_the_file_format(bundle, make_scan, trained, run_config, judges, scans, tmp_path):
    """One scan as NIfTI, as MHA and with its axes stored in another order gives one OODM and one segmentation."""
    if not judges:
        pytest.skip("this bundle gives no verdict")
    image = make_scan(7, (16, 18, 14))[0]
    folder = tmp_path / "scans"
    folder.mkdir()
    affine = write_itk(folder / "mha.mha", image)
    nib.save(nib.Nifti1Image(image, affine), folder / "nifti.nii.gz")
    flipped = affine @ np.array([[-1.0, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(image[::-1].copy(), flipped), folder / "flipped.nii.gz")
    given = {"dataset_dir": folder, "model_dir": trained.models, "output_dir": tmp_path / "out"}
    # The weights bring the settings of their training along.
    run_config(bundle, "inference.json", tiny=False, **given)
    rows = json.loads((tmp_path / "out" / "ood_report.json").read_text(encoding="utf-8"))["rows"]
    assert len({round(row["oodm"], 9) for row in rows}) == 1
    segmentations = [nib.load(tmp_path / "out" / name / f"{name}_seg.nii.gz").get_fdata() for name in ("mha", "nifti")]
    np.testing.assert_array_equal(segmentations[0], segmentations[1])
    other = nib.load(tmp_path / "out" / "flipped" / "flipped_seg.nii.gz").get_fdata()
    np.testing.assert_array_equal(segmentations[0], other[::-1])
