import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from torch.testing import assert_close

from common.errors import ConfigError
from common.spectral.digest import preprocessing_digest
from common.transforms import to_spacing

AFFINE = torch.diag(torch.tensor([1.0, 2.0, 7.0, 1.0], dtype=torch.float64))


def scan():
    values = torch.rand(1, 24, 20, 5, generator=torch.Generator().manual_seed(0))
    return {"image": MetaTensor(values, affine=AFFINE)}


@pytest.mark.parametrize("keep", [-1, -1.0, None])
def test_axis_that_is_kept_is_not_resampled(keep):
    found = to_spacing("image", [2.0, 4, keep], 3)(scan())["image"]
    assert found.shape == (1, 12, 10, 5)
    np.testing.assert_allclose(np.diag(found.affine), [2, 4, 7, 1])
    # Every slice is resampled by itself.
    for place in range(5):
        one = {"image": scan()["image"][..., place : place + 1]}
        assert_close(to_spacing("image", [2.0, 4.0, -1], 3)(one)["image"][..., 0], found[..., place])


def test_image_comes_back_to_its_grid():
    prepare = Compose([to_spacing("image", [2.0, 4.0, -1], 3)])
    prepared = prepare(scan())
    prepared["pred"] = MetaTensor(torch.ones_like(prepared["image"].as_tensor()), meta=prepared["image"].meta)
    inverted = Invertd("pred", prepare, "image", nearest_interp=True)(prepared)["pred"]
    assert inverted.shape == (1, 24, 20, 5)
    assert_close(inverted.affine, AFFINE)


def test_labels_keep_their_classes():
    classes = (scan()["image"] * 4).round()
    found = to_spacing("label", [1.5, 3.0, None], 3, mode="nearest", allow_missing_keys=True)({"label": classes})
    assert found["label"].shape == (1, 16, 14, 5)
    assert set(found["label"].unique().tolist()) == {0, 1, 2, 3, 4}
    assert to_spacing("label", [1.5, 3.0, None], 3, allow_missing_keys=True)({}) == {}


def test_digest_tells_the_spacing_but_not_how_an_axis_is_kept():
    digests = [preprocessing_digest([to_spacing("image", s, 3)]) for s in ([2, 2, -1], [2.0, 2.0, None], [2, 2, 3])]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "spacing", [2.0, [2.0, 2.0], [2, 2, 0], [2, 2, -3], "2,2,2", [2, 2, "null"], [2, 2, float("nan")], [2, 2, True]]
)
def test_spacing_that_is_not_accepted_is_named(spacing):
    with pytest.raises(ConfigError, match=r"^spacing is .*; accepted are 3 sizes in mm above 0, one for each axis, or"):
        to_spacing("image", spacing, 3)
