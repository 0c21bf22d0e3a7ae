"""Real scans, in the folder ``MEDICAL_DATA_DIR``: the weights of ``spectral_ood``, slices of ``denoising_pretrain``."""

import csv
import json
import math
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-")
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "spectral_ood"
NUMBER = 6
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="MEDICAL_DATA_DIR names no folder of real scans"),
]


@pytest.fixture(scope="module")
def evaluated(run_config, tmp_path_factory):
    """An evaluation on a few test cases, and on crops of two other organs as large as those."""
    folder = tmp_path_factory.mktemp("real")
    split = json.loads((BUNDLE / "docs" / "split.json").read_text(encoding="utf-8"))
    names = sorted(split["test"]["hippocampus_mri"])[:NUMBER]
    assert len(names) == NUMBER
    (folder / "split.json").write_text(json.dumps({"test": {"hippocampus_mri": names}}))
    (folder / "strange").mkdir()
    for other in ("left_atrium_mri", "abdomen_multi_organ_mri"):
        scan = min((DATA / other / "imagesTr").glob("*.nii.gz"))
        (folder / "strange" / f"{other}.nii.gz").symlink_to(scan)
    run_config(
        BUNDLE, "evaluate.json", tiny=False, dataset_dir=DATA / "hippocampus_mri", ood_dir=folder / "strange",
        split_file=folder / "split.json", crop_size=[36, 50, 36], output_dir=folder / "out",
    )  # fmt: skip
    return folder / "out"


def scores(evaluated):
    """OODM of known and of strange scans."""
    with open(evaluated / "cases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [[float(row["oodm"]) for row in rows if row["in_distribution"] == known] for known in ("True", "False")]


def test_shipped_weights_segment_the_hippocampus(evaluated):
    figures = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))["segmentation"]["dsc"]
    assert figures["n"] == NUMBER
    assert figures["mean"] >= 0.8


def test_other_organs_are_stranger_than_any_hippocampus(evaluated):
    known, strange = scores(evaluated)
    assert (len(known), len(strange)) == (NUMBER, 2)
    assert all(map(math.isfinite, known + strange))
    assert min(strange) > max(known)


def test_dicom_series_is_segmented_with_a_verdict(run_config, tmp_path):
    run_config(BUNDLE, "inference.json", tiny=False, dataset_dir=DATA / "dicom", output_dir=tmp_path, list_paths=True)
    (row,) = json.loads((tmp_path / "ood_report.json").read_text(encoding="utf-8"))["rows"]
    (series,) = json.loads((tmp_path / "dicom_series.json").read_text(encoding="utf-8"))["series"]
    assert (row["image"], series["folder"], series["files"]) == (series["case"], "hippocampus_crop", 32)
    assert row["error"] is None
    assert math.isfinite(row["oodm"])
    assert isinstance(row["is_ood"], bool)
    segmentation = nib.load(tmp_path / row["image"] / f"{row['image']}_seg.nii.gz")
    assert sorted(segmentation.shape) == [32, 35, 51]
    np.testing.assert_allclose(nib.affines.voxel_sizes(segmentation.affine), 1, atol=1e-3)


def test_brain_slices_are_scaled_by_patient_and_the_healthy_ones_found(bundle_importable):
    """Air that is not zero in one patient is no foreground once the border is cleared."""
    bundle = BUNDLE.with_name("denoising_pretrain")
    with bundle_importable(bundle):
        from scripts.common.data import labeled_cases
        from scripts.common.denoising import foreground_mask

        cases = labeled_cases(str(DATA / "brain_tumour_mri"), "", spatial_dims=2)
        chosen = [case for case in cases if case["patient"] in ("TCGA_FG_5962", "TCGA_HT_7602")]
        shares = {}
        for clear in (False, True):
            parser = ConfigParser()
            parser.read_config(str(bundle / "configs" / "train.json"))
            parser.update({"clear_border": clear, "train#dataset#data": chosen, "foreground_threshold": 0.1})
            dataset = parser.get_parsed_content("train#dataset")
            items = [item for item in dataset.items if item.case["patient"] == "TCGA_FG_5962"]
            shares[clear] = np.mean(
                [float(foreground_mask(item.image, foreground_threshold=0.1).float().mean()) for item in items]
            )
            assert sum(not item.healthy for item in items) == 13
            assert len({tuple(item.case["scale"]) for item in dataset.items}) == 2
    assert shares[False] > 0.95
    assert shares[True] < 0.7
