"""The small pictures of the page: where they cut, what they outline, how many characters they take."""

import base64
import io

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from common.figures.style import OUTLINES, rgb
from common.page import thumbnail, thumbnail_limit
from common.page.planes import cut_planes
from common.page.thumbnail import HEAD


def box(shape=(8, 6, 4), place=(slice(2, 5), slice(1, 3), slice(3, 4)), value=1):
    classes = torch.zeros(shape, dtype=torch.uint8)
    classes[place] = value
    return classes


def decode(uri):
    assert uri.startswith(HEAD)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(HEAD)))))


def test_three_planes_go_through_most_foreground_and_share_a_scale():
    classes = box()
    planes = cut_planes(torch.rand(1, 8, 6, 4), classes, size=80)
    assert [found.shape for _, found in planes] == [(40, 60), (40, 80), (60, 80)]
    expected = [classes[2], classes[:, 1], classes[:, :, 3]]
    for (picture, found), plane in zip(planes, expected, strict=True):
        assert picture.shape == (*found.shape, 3)
        np.testing.assert_array_equal(found[5::10, 5::10], plane.numpy().T[::-1])


def test_pixels_are_as_wide_as_voxels_in_mm():
    image = MetaTensor(torch.rand(1, 8, 8, 4), affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])))
    assert [found.shape for _, found in cut_planes(image, None, size=64)] == [(64, 32), (64, 32), (32, 32)]


def test_segmentation_of_another_grid_lies_where_it_belongs():
    coarse = MetaTensor(box()[None], affine=torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0])))
    # The same voxels with the first axis reversed, and each cut into eight.
    fine = coarse.as_tensor()[0].flip(0).repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    place = torch.tensor([[1.0, 0, 0, -14.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5], [0, 0, 0, 1]])
    planes = cut_planes(MetaTensor(fine[None].float(), affine=place), coarse, size=160)
    sums = [int((found > 0).sum()) for _, found in planes]
    assert sums == [2 * 1 * 400, 3 * 1 * 400, 3 * 2 * 400]
    axial = planes[2][1][::-1]
    assert axial[20:60, 60:120].all(), "voxels 3 to 5 of 8 from the left, 1 and 2 of 6 from below"


def test_picture_has_one_plane_and_a_color_picture_is_not_turned():
    gray = cut_planes(torch.rand(1, 8, 6), box((8, 6), (slice(0, 2), slice(0, 2))), size=8)
    (colored,) = cut_planes(torch.rand(3, 8, 6), box((8, 6), (slice(0, 2), slice(0, 2))), size=8)
    assert len(gray) == 1
    assert gray[0][1][-1, 0] == colored[1][0, 0] == 1
    assert gray[0][1][0, 0] == colored[1][-1, 0] == 0


@pytest.mark.parametrize("value", [0.0, 5.0, float("nan")])
def test_image_of_one_value_has_a_picture(value):
    assert decode(thumbnail(torch.full((1, 8, 6, 4), value), None)).shape[2] == 3


def test_outline_has_the_color_of_its_class():
    classes = box((16, 16), (slice(2, 14), slice(2, 14)), value=2)
    pixels = decode(thumbnail(torch.zeros(1, 16, 16), classes)).astype(int)
    assert np.abs(pixels[33, 128] - rgb(OUTLINES[1])).max() < 60, "on the line"
    assert pixels[128, 128].max() < 40, "inside of it"


@pytest.mark.parametrize("limit", [30_000, 6_000, 1_500])
def test_noise_of_any_size_keeps_to_the_limit(limit):
    uri = thumbnail(torch.rand(1, 40, 40, 40), torch.rand(40, 40, 40) > 0.5, limit=limit)
    assert 0 < len(uri) <= limit
    assert decode(uri).size


def test_picture_that_cannot_be_small_enough_is_left_out():
    assert thumbnail(torch.rand(1, 8, 8), None, limit=50) == ""


@pytest.mark.parametrize(("number", "limit"), [(0, 30_000), (500, 30_000), (6_000, 3_000)])
def test_thumbnails_of_a_page_stay_below_its_budget(number, limit):
    assert thumbnail_limit(number) == limit
    assert number * limit <= 18_000_000


@pytest.mark.parametrize(("shape", "channels"), [((16, 12, 8), 1), ((16, 12), 3)])
def test_segmentation_without_an_affine_lies_where_the_image_does(shape, channels):
    """The grid that an evaluation measures on is often another than the scan's; its segmentation has no affine."""
    affine = torch.diag(torch.tensor([-2.5, 2.5, 5.0, 1.0]))
    affine[:3, 3] = torch.tensor([40.0, -30.0, 7.0])
    image = MetaTensor(torch.rand(channels, *shape), affine=affine)
    everywhere = torch.ones(1, *shape, dtype=torch.long)
    assert all(found.all() for _, found in cut_planes(image, everywhere, size=64))
    half = everywhere.clone()
    half[:, : shape[0] // 2] = 0
    pixels, found = cut_planes(image, half, size=64)[-1]
    width = pixels.shape[1]
    assert not found[:, : width // 2 - 2].any()
    assert found[:, width // 2 + 2 :].all()
