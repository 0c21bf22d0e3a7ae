"""Bad scans among good ones, in every bundle of volumes: a row that says why, and the others are segmented."""

import csv
import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from common.dicom.series import series_name
from tests.bundles.refusals import kinds, leftovers


@pytest.fixture
def volumes(configs):
    if configs["train"]["spatial_dims"] != 3:
        pytest.skip("a 2-D bundle")


def segment_with_failures(infer_on, tmp_path, broken):
    """Segments a folder of scans of which ``broken`` fail; returns case -> reason after checking all the rest."""
    error = infer_on(tmp_path / "scans")
    assert kinds(error) >= {"CasesFailedError", "RuntimeError"}
    assert f"{len(broken)} of " in str(error)
    assert "ood_report.csv" in str(error)
    with open(tmp_path / "out" / "ood_report.csv", newline="", encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    report = json.loads((tmp_path / "out" / "ood_report.json").read_text(encoding="utf-8"))
    assert len(report["rows"]) == len(rows)
    for name, row in rows.items():
        written = (tmp_path / "out" / name / f"{name}_seg.nii.gz").is_file()
        assert written != (name in broken), name
        assert bool(row["error"]) == (name in broken), row
    assert not leftovers(tmp_path)
    return {name: rows[name]["error"] for name in broken}


def write_scan(scan, path):
    """Writes a NIfTI whose header is as it was set, which nibabel would correct."""
    scan.header["sform_code"], scan.header["magic"], scan.header["vox_offset"] = 2, b"n+1", 352
    content = scan.header.binaryblock + bytes(4) + np.asarray(scan.dataobj).tobytes(order="F")
    path.write_bytes(gzip.compress(content))


@pytest.mark.usefixtures("volumes")
@pytest.mark.tried(
    "Damaged and unusable scans",
    "NaN voxels, constant, sheared, complex and truncated images, in every bundle of volumes",
    "A row for each with the reason; the other scans are segmented.",
)
def test_broken_scans_do_not_stop_the_others(infer_on, make_scan, tmp_path):
    """Kinds of broken scans beside a good one, in one run."""
    folder = tmp_path / "scans"
    folder.mkdir()
    image = make_scan(0)[0]
    scans = {
        "good": image,
        "flat": image[:, :, 0],
        "thin": image[:, :, :1],
        "series": np.stack([image, image], axis=-1),
        "nan": np.where(np.arange(image.size).reshape(image.shape) == 5, np.nan, image),
        "infinite": np.where(np.arange(image.size).reshape(image.shape) < 3, np.inf, image),
        "constant": image * 0 + 4,
        "truncated": image,
        "flipped_bit": image,
        "complex": (image + 1j).astype(np.complex64),
        "sheared": image,
        "nowhere": image,
        "huge": image,
    }
    for name, array in scans.items():
        scan = nib.Nifti1Image(array, np.eye(4))
        scan.header["srow_x"] = {"sheared": [1, 0.4, 0, 0], "nowhere": [np.nan] * 4}.get(name, [1, 0, 0, 0])
        if name == "huge":
            scan.header["dim"][1:4] = 2000
        write_scan(scan, folder / f"{name}.nii.gz")
    file = folder / "truncated.nii.gz"
    file.write_bytes(file.read_bytes()[:3000])
    content = bytearray((folder / "flipped_bit.nii.gz").read_bytes())
    content[-6] ^= 1  # of the checksum, in front of the length
    (folder / "flipped_bit.nii.gz").write_bytes(content)
    (folder / "garbage.nrrd").write_bytes(b"no scan at all")
    reasons = segment_with_failures(infer_on, tmp_path, {"garbage", *scans} - {"good"})
    expected = {
        "flat": "takes 3-D images",
        "thin": "takes 3-D images",
        "series": "must be split first",
        "nan": "1 NaN or infinite voxels",
        "infinite": "3 NaN or infinite voxels",
        "constant": "every voxel is 4",
        "truncated": "copy it again",
        "flipped_bit": "its compressed content is not what was written",
        "complex": "holds complex numbers",
        "sheared": "axes that are not perpendicular",
        "nowhere": "geometry that is not finite",
        "huge": "declares 2000 x 2000 x 2000 voxels; accepted are 500000000 (max_voxels)",
        "garbage": "cannot be read (no NRRD file); copy it again",
    }
    for name, words in expected.items():
        assert reasons[name].startswith(f"case '{name}': "), reasons[name]
        assert words in reasons[name]
        assert "\n" not in reasons[name]


@pytest.mark.usefixtures("volumes")
class TestDicom:
    def test_bad_series_do_not_stop_the_others(self, infer_on, make_scan, write_series, tmp_path):
        image = make_scan(1, (16, 15, 9))[0]
        folder = tmp_path / "scans"
        write_series(folder / "good", image, uid="1.2.3.1")
        write_series(folder / "gap", image, uid="1.2.3.2", skip=(4,))
        write_series(folder / "mixed", image[:, :, :4], uid="1.2.3.3")
        write_series(folder / "mixed", image[:, :, :9], uid="1.2.3.3", tilt=0.5, skip=(0, 1, 2, 3))
        gap, mixed = series_name("1.2.3.2"), series_name("1.2.3.3")
        reasons = segment_with_failures(infer_on, tmp_path, {gap, mixed})
        assert "a slice is missing or the spacing varies: send the whole series" in reasons[gap]
        assert "slices of different orientation; export each orientation as a series of its own" in reasons[mixed]

    def test_two_series_in_one_folder_are_two_cases(
        self, bundle, run_config, trained, make_scan, write_series, tmp_path
    ):
        names = [series_name(f"1.2.3.{index}") for index in (1, 2)]
        for index in (1, 2):
            write_series(tmp_path / "scans" / "both", make_scan(index, (16, 15, 9))[0], uid=f"1.2.3.{index}")
        run_config(
            bundle, "inference.json", dataset_dir=tmp_path / "scans", model_dir=trained.models,
            output_dir=tmp_path / "out",
        )  # fmt: skip
        written = {path.name for path in (tmp_path / "out").rglob("*_seg.nii.gz")}
        assert written == {f"{name}_seg.nii.gz" for name in names}
