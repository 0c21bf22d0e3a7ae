"""Slices of volumes as a data set of pictures."""

import json

import nibabel as nib
import numpy as np
import pytest

from common.contrast import cut_volumes
from common.data.cases import decathlon_cases
from common.errors import ImageError


def write_volumes(folder, shape=(6, 5, 4)):
    """One volume whose first axis points to the left, with an empty slice and two classes."""
    rng = np.random.default_rng(0)
    voxels, label = rng.normal(size=shape).astype(np.float32), np.zeros(shape, np.uint8)
    voxels[..., 3] = 7
    label[0, 1, 2], label[4, 2, 2] = 1, 3
    folder.mkdir()
    affine = np.diag([-1.5, 2.0, 4.0, 1.0])
    for name, content in (("image", voxels), ("label", label)):
        nib.save(nib.Nifti1Image(content, affine), folder / f"{name}.nii.gz")
    item = {"image": "./image.nii.gz", "label": "./label.nii.gz"}
    listing = {"name": "scans", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "3": "b"}}
    (folder / "dataset.json").write_text(json.dumps(listing | {"numTraining": 1, "training": [item]}))
    return voxels, label


def test_every_slice_that_shows_anything_is_a_picture(tmp_path):
    voxels, label = write_volumes(tmp_path / "scans")
    cut_volumes(str(tmp_path / "scans"), str(tmp_path / "slices"))
    cases = decathlon_cases(tmp_path / "slices")
    assert [(case["patient"], case["slice"], case["listed"]) for case in cases] == [
        ("image", 0, [0]), ("image", 1, [0]), ("image", 2, [0, 1, 3]),
    ]  # fmt: skip
    for case in cases:
        for key, volume in (("image", voxels), ("label", label)):
            found = nib.load(case[key])
            np.testing.assert_array_equal(found.get_fdata(), volume[::-1, :, case["slice"]])
            assert found.header.get_zooms() == (1.5, 2.0)
    assert {case["modality"] for case in cases} == {"MR"}


def test_pictures_are_not_cut(tmp_path):
    write_volumes(tmp_path / "scans", shape=(6, 5, 4))
    cut_volumes(str(tmp_path / "scans"), str(tmp_path / "slices"))
    with pytest.raises(ImageError, match="case 'image_s000': an image of 2 axes; only volumes are cut"):
        cut_volumes(str(tmp_path / "slices"), str(tmp_path / "again"))
