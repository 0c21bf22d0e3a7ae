"""Slices of volumes as a data set of pictures."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.contrast import cut_volumes
from common.data.cases import decathlon_cases
from common.errors import ConfigError, ImageError


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


def test_slices_may_be_resized(tmp_path):
    _, label = write_volumes(tmp_path / "scans")
    cut_volumes(str(tmp_path / "scans"), str(tmp_path / "slices"), longest=12)
    case = decathlon_cases(tmp_path / "slices")[2]
    image, mask = (nib.load(case[key]) for key in ("image", "label"))
    assert (image.shape, image.header.get_zooms()) == ((12, 10), (0.75, 1.0))
    np.testing.assert_array_equal(mask.get_fdata(), np.repeat(np.repeat(label[::-1, :, 2], 2, 0), 2, 1))


def test_pictures_may_be_resized(tmp_path):
    """At half the size, every pixel is that of the four below it; labels stay class numbers; persons are kept."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (4, 6, 3)), 2, 0), 2, 1).astype(np.uint8)
    label = np.repeat(np.repeat(rng.integers(0, 3, (4, 6)), 2, 0), 2, 1).astype(np.uint8)
    for name, array in (("image.png", pixels), ("label.png", label)):
        Image.fromarray(array).save(tmp_path / "pictures" / name)
    item = {"image": "image.png", "label": "label.png", "patient": "p", "slice": 4}
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "a", "1": "b", "2": "c"}, "training": [item]}
    (tmp_path / "pictures" / "dataset.json").write_text(json.dumps(listing))
    cut_volumes(str(tmp_path / "pictures"), str(tmp_path / "small"), longest=6)
    (case,) = decathlon_cases(tmp_path / "small")
    assert (case["patient"], case["slice"], case["modality"]) == ("p", 4, "MR")
    np.testing.assert_array_equal(np.asarray(Image.open(case["label"])), label[::2, ::2])
    assert np.asarray(Image.open(case["image"])).shape == (4, 6, 3)
    mean = np.asarray(Image.open(case["image"])).mean()
    assert mean == pytest.approx(pixels.mean(), abs=6)
    with pytest.raises(ConfigError, match="longest is 0; accepted are numbers of pixels from 1"):
        cut_volumes(str(tmp_path / "pictures"), str(tmp_path / "none"), longest=0)
