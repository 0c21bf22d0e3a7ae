"""Bundles of volumes with a network that sees slice by slice: training, evaluation and inference of thick slices."""

import json

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.array([[0, -1.5, 0, 20], [1.5, 0, 0, -7], [0, 0, 8, -3], [0, 0, 0, 1.0]])
"""Thick slices, turned in the plane."""

SETTINGS = {
    "spacing": [3.0, 3.0, -1],
    "roi_size": [32, 32, 1],
    "samples_per_epoch": 16,
    "batch_size": 2,
    "learning_rate": 0.02,
}


@pytest.fixture(scope="module")
def thick(make_dataset, tmp_path_factory):
    """Four volumes of few slices; the folder, and what becomes of one of them at half of its resolution."""

    def edit(_index, image, label):
        parts = {"imagesTr": image, "labelsTr": label}
        return {name: (np.repeat(np.repeat(array[..., 3:12:2], 2, 0), 2, 1), AFFINE) for name, array in parts.items()}

    return make_dataset(tmp_path_factory.mktemp("data") / "thick", edit=edit)


def test_thick_slices_are_trained_on_and_segmented_on_their_own_grid(
    bundle, configs, thick, run_config, read_table, tmp_path
):
    if "slices" not in configs:
        pytest.skip("this bundle has no volumes")
    places = {"model_dir": tmp_path / "m", "dataset_dir": thick}
    run_config(bundle, ["train.json", "slices.json"], output_dir=tmp_path / "t", **places, **SETTINGS)
    with np.load(tmp_path / "m" / "signature_bank.npz") as bank:
        assert (bank["divisor"].tolist(), bank["roi_size"].tolist()) == ([16, 16, 1], [32, 32, 1])
    # The weights bring their network and their settings along.
    run_config(bundle, "evaluate.json", output_dir=tmp_path / "e", tiny=False, **places)
    cases = json.loads((tmp_path / "e" / "metrics.json").read_text())["segmentation"]["dsc"]["per_case"]
    assert len(cases) == 4
    run_config(bundle, "inference.json", output_dir=tmp_path / "i", tiny=False, **places)
    rows = read_table(tmp_path / "i" / "ood_report.csv")
    assert [row["error"] for row in rows] == [""] * 4
    for row in rows:
        found = nib.load(tmp_path / "i" / row["image"] / f"{row['image']}_seg.nii.gz")
        assert found.shape == (40, 36, 5)
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("setting", [{"divisor": [16, 16]}, {"spacing": [3.0, 3.0]}, {"spacing": [3.0, 0, 1]}])
def test_setting_for_other_axes_is_one_line(bundle, configs, thick, fail_config, tmp_path, setting):
    if "slices" not in configs:
        pytest.skip("this bundle has no volumes")
    places = {"dataset_dir": thick, "output_dir": tmp_path / "t", "model_dir": tmp_path / "m"}
    for names in (["train.json", "slices.json"], ["inference.json", "slices.json"]):
        error = fail_config(bundle, names, **places, **setting)
        (name, value), *_ = setting.items()
        assert str(error).startswith(f"{name} is {value}; accepted are ")
    assert not list(tmp_path.rglob("*.pt"))
