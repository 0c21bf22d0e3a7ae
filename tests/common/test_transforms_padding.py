import pytest
import torch
from torch.testing import assert_close

from common.errors import ConfigError
from common.transforms import divisor_per_axis, pad_to_divisor


def test_image_is_padded_in_the_plane_alone():
    image = torch.rand(1, 20, 16, 5)
    padded = pad_to_divisor(["image", "label"], [16, 16, 1], 3, allow_missing_keys=True)({"image": image})["image"]
    assert padded.shape == (1, 32, 16, 5)
    assert_close(padded[:, 6:26].as_tensor(), image)
    assert float(padded.sum()) == pytest.approx(float(image.sum()))


def test_one_number_holds_for_all_axes():
    assert pad_to_divisor("image", 8, 3)({"image": torch.rand(1, 20, 16, 5)})["image"].shape == (1, 24, 16, 8)


@pytest.mark.parametrize("divisor", [0, -8, 8.0, True, "8", None, [16, 16], [16, 16, 0], [16, 16, 1, 1], [16, 16, "1"]])
def test_divisor_that_is_not_accepted_is_named(divisor):
    with pytest.raises(ConfigError, match=r"^divisor is .*; accepted are a whole number from 1, or 3 of them, one for"):
        divisor_per_axis(divisor, 3)
