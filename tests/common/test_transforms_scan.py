import math
import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch.testing import assert_close

from common.errors import BundleError, ImageError, LabelError
from common.transforms import CheckImaged, CheckLabeld, CropOODd, LoadScand

AFFINE = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, -3, 7], [0, 0, 0, 1]])
RAMP = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def ramp(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_load_with_their_geometry_channel_first(tmp_path, save_nifti, suffix):
    paths = {key: save_nifti(tmp_path / f"{key}{suffix}", RAMP, AFFINE) for key in ("image", "label")}
    loaded = LoadScand(["image", "label"])(paths | {"case": "x"})
    for key in ("image", "label"):
        assert_close(loaded[key].as_tensor(), torch.from_numpy(RAMP)[None])
        assert_close(loaded[key].affine, torch.from_numpy(AFFINE))
    assert loaded["case"] == "x"


def test_pictures_load_first_axis_along_the_width(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = LoadScand("image")({"image": str(tmp_path / "a.png")})["image"]
    assert_close(image.as_tensor(), torch.from_numpy(pixels.T.astype(np.float32))[None])


def test_case_without_a_label_loads(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii.gz", RAMP)
    assert set(LoadScand(["image", "label"], allow_missing_keys=True)({"image": path})) == {"image"}
    with pytest.raises(KeyError, match="label"):
        LoadScand(["image", "label"])({"image": path})


@pytest.mark.parametrize(("case", "name"), [({"case": "p1"}, "case 'p1'"), ({}, "case 'a.nii.gz'")])
@pytest.mark.parametrize("share", [0, 0.5, 0.9, None])
def test_file_that_cannot_be_read_is_named_in_one_line(tmp_path, save_nifti, case, name, share):
    path = tmp_path / "a.nii.gz"
    rng = np.random.default_rng(0)
    save_nifti(path, rng.random((8, 8, 8)).astype(np.float32))
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError, match=re.escape(f"{name}: image {path} cannot be read (")) as caught:
        LoadScand("image")({"image": str(path)} | case)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BundleError)
    assert isinstance(caught.value, ValueError)


def test_usable_images_pass_unchanged():
    for dims, channels, shape in ((3, 1, (1, 4, 5, 2)), (2, 1, (1, 4, 5)), (2, 3, (3, 4, 5))):
        data = {"image": ramp(*shape), "case": "x"}
        assert CheckImaged("image", dims, channels)(data) == data


def spoiled(value):
    image = ramp(1, 2, 3, 4)
    image[0, 1, 1, 1:3] = value
    return image


@pytest.mark.parametrize(
    ("image", "dims", "channels", "text"),
    [
        (ramp(1, 4, 5), 3, 1, "image of shape (1, 4, 5) (channels first); this bundle takes 3-D images"),
        (ramp(1, 4, 5, 1), 3, 1, "image of shape (1, 4, 5, 1) (channels first); this bundle takes 3-D images"),
        (ramp(1, 2, 2, 2, 2), 3, 1, "(channels first); this bundle takes 3-D images"),
        (ramp(1, 4, 5, 2), 2, 1, "image of shape (1, 4, 5, 2) (channels first); this bundle takes 2-D images"),
        (ramp(2, 4, 5, 2), 3, 1, "image of shape (2, 4, 5, 2) has 2 channels; this bundle takes 1"),
        (ramp(1, 4, 5), 2, 3, "has 1 channels; this bundle takes 3"),
        (spoiled(math.nan), 3, 1, "image holds 2 NaN or infinite voxels"),
        (spoiled(-math.inf), 3, 1, "image holds 2 NaN or infinite voxels"),
        (torch.full((1, 2, 2, 2), -1000.0), 3, 1, "every voxel is -1000; a constant image shows nothing"),
    ],
)
def test_image_that_cannot_be_segmented_is_named(image, dims, channels, text):
    with pytest.raises(ImageError, match=re.escape("case 'x': ") + ".*" + re.escape(text)):
        CheckImaged("image", dims, channels)({"image": image, "case": "x"})


def labeled(label, affine=AFFINE, **extra):
    image = MetaTensor(ramp(1, 2, 2), affine=torch.from_numpy(AFFINE))
    label = label if isinstance(label, torch.Tensor) else torch.tensor(label, dtype=torch.float32).reshape(1, 2, -1)
    return {"image": image, "label": MetaTensor(label, affine=torch.from_numpy(affine)), "case": "x"} | extra


@pytest.mark.parametrize(
    "data",
    [
        labeled([0, 1, 2, 300]),
        labeled([0, 4, 0, 4], classes=[0, 2, 4]),
        labeled([0, 1, 1, 0], affine=AFFINE + 1e-5),
        {"image": ramp(1, 2, 2), "case": "x"},
        {"image": ramp(1, 2, 2), "label": torch.zeros(1, 2, 2), "case": "x"},
    ],
)
def test_labels_that_fit_pass_unchanged(data):
    assert CheckLabeld("label")(data) == data


SHIFTED = AFFINE + np.array([[0, 0, 0, 0.01], *[[0, 0, 0, 0]] * 3])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (labeled([0, 1, 0, 1, 1, 1]), "label of shape (2, 3), image of shape (2, 2); both must be equal"),
        (labeled([0, 1, 0, 1], affine=SHIFTED), "different affines; save the label in the image's geometry"),
        (labeled([0, 0.5, 1, 1]), "label holds [0.5]; accepted are whole numbers from 0"),
        (labeled([0, -1, 1, 1]), "label holds [-1.0]; accepted are whole numbers from 0"),
        (labeled([0, 3, 1, 7], classes=[0, 1]), "label holds [3.0, 7.0]; accepted are [0, 1]"),
        (labeled([0, math.nan, 1, 1]), "label holds [nan]"),
        (labeled([0, math.inf, 1, 1]), "label holds [inf]"),
    ],
)
def test_label_that_does_not_fit_is_named(data, text):
    with pytest.raises(LabelError, match=re.escape("case 'x': ") + ".*" + re.escape(text)) as caught:
        CheckLabeld("label")(data)
    assert isinstance(caught.value, ValueError)


KNOWN, STRANGE = {"in_distribution": True}, {"in_distribution": False}


@pytest.mark.parametrize(
    ("described", "cropped"),
    [
        ({}, False),
        (KNOWN, False),
        (STRANGE, True),
        (STRANGE | {"damage": "blur_1"}, False),
        (STRANGE | {"damage": "flip"}, False),
    ],
)
def test_strange_cases_are_cropped_and_damaged_ones_are_not(described, cropped):
    data = {"image": ramp(1, 6, 5, 4), "label": ramp(1, 6, 5, 4) > 3} | described
    result = CropOODd(["image", "label"], (2, 3, 9))(data)
    expected = (1, 2, 3, 4) if cropped else (1, 6, 5, 4)
    assert result["image"].shape == result["label"].shape == expected
    if cropped:
        assert_close(torch.as_tensor(result["image"]), data["image"][:, 2:4, 1:4])
    assert data["image"].shape == (1, 6, 5, 4)


def test_crop_can_do_without_label_and_size():
    data = {"image": ramp(1, 4, 4)} | STRANGE
    assert CropOODd(["image", "label"], (2, 2))(data)["image"].shape == (1, 2, 2)
    assert CropOODd(["image", "label"])(data) == data
