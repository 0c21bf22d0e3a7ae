"""Coarse noise of batches: image by image, its statistics, where it is added, and what its draws depend on."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from common.denoising import CoarseNoise, NoiseParameters, add_in_foreground, coarse_noise, foreground_mask
from common.errors import ConfigError
from common.runtime.seeds import step_generator


def slow_enlarge(grid, size):
    """Bilinear interpolation of one channel, point by point; the corners of the grid are those of the image."""
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            x, y = i * (grid.shape[0] - 1) / (size[0] - 1), j * (grid.shape[1] - 1) / (size[1] - 1)
            a, b = min(int(x), grid.shape[0] - 2), min(int(y), grid.shape[1] - 2)
            u, v = x - a, y - b
            corners = grid[a : a + 2, b : b + 2]
            out[i, j] = (np.outer([1 - u, u], [1 - v, v]) * corners).sum()
    return out


def one_by_one(grid, size, shift):
    """The noise of one image, as the paper tells it: enlarged, then rolled."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    enlarged = interpolate(grid[None], tuple(size), mode=mode, align_corners=True)[0]
    return enlarged.roll(tuple(shift), dims=tuple(range(1, enlarged.ndim)))


def batch_noise(images, seed=0, **settings):
    """Noisy images and clean ones."""
    changed = CoarseNoise(**settings)({"image": images}, step_generator(seed))
    return changed["image"], changed["label"]


def draw(image, seed=0, **settings):
    """One noisy image."""
    return batch_noise(image[None], seed, **settings)[0][0]


def test_noise_is_interpolated_as_by_hand():
    grid = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    found = coarse_noise(NoiseParameters(grid, torch.zeros(1, 2, dtype=torch.int64)), (11, 9))[0, 0]
    np.testing.assert_allclose(found.numpy(), slow_enlarge(grid[0, 0].numpy(), (11, 9)), atol=1e-12)


@pytest.mark.parametrize(
    ("points", "size"), [((4, 5), (13, 9)), ((16, 16), (8, 24)), ((1, 2), (5, 1)), ((3, 4, 2), (7, 9, 6))]
)
def test_a_batch_is_its_images_one_by_one(points, size):
    grid = torch.randn(3, 2, *points, dtype=torch.float64)
    shift = torch.stack([torch.tensor([0, 1, extent - 1]) for extent in size], dim=1)
    found = coarse_noise(NoiseParameters(grid, shift), size)
    assert found.shape == (3, 2, *size)
    for number in range(3):
        assert_close(found[number], one_by_one(grid[number], size, shift[number].tolist()))


@pytest.mark.parametrize(("size", "resolution"), [((61, 61), 16), ((25, 25, 25), 7)])
def test_noise_has_mean_zero_and_the_asked_deviation_at_grid_points(size, resolution):
    """With sizes of which the grid's points are voxels: every fourth one, before rolling."""
    drawn = CoarseNoise(noise_resolution=resolution).draw((60, 3, *size), step_generator(1))
    still = coarse_noise(NoiseParameters(drawn.grid, torch.zeros_like(drawn.shift)), size)
    values = still[(..., *[slice(None, None, 4)] * len(size))].flatten()
    error = 1 / len(values) ** 0.5
    assert abs(float(values.mean())) < 4 * 0.2 * error
    assert float(values.std()) == pytest.approx(0.2, rel=3 * error)


def test_images_are_rolled_by_any_number_of_voxels():
    shift = CoarseNoise(noise_resolution=2).draw((4000, 1, 3, 5), step_generator(0)).shift
    for axis, extent in enumerate((3, 5)):
        shares = torch.bincount(shift[:, axis], minlength=extent) / len(shift)
        assert_close(shares, torch.full((extent,), 1 / extent), rtol=0, atol=0.03)
    assert abs(float(torch.corrcoef(shift.T.float())[0, 1])) < 0.06


def test_noise_between_grid_points_varies_less():
    noise = draw(torch.ones(200, 61, 61), noise_resolution=16, noise_sd=1.0) - 1
    assert 0.3 < float(noise.std()) < 0.8


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_added_outside_the_foreground_of_each_image(dims):
    images = torch.rand(2, 3, *[24] * dims)
    images[0, :, :7] = 0.003
    images[1, :, 7:] = 0.003
    noisy, clean = batch_noise(images)
    noise = noisy - clean
    assert not noise[0, :, :7].any()
    assert not noise[1, :, 7:].any()
    assert (noise[0, :, 7:] != 0).float().mean() > 0.99
    assert (noise[1, :, :7] != 0).float().mean() > 0.99


def test_images_of_a_batch_differ():
    noisy, _ = batch_noise(torch.ones(2, 1, 32, 32))
    assert not torch.equal(noisy[0], noisy[1])


def test_channels_differ_unless_they_shall_not():
    image = torch.ones(2, 32, 32)
    own, shared = draw(image), draw(image, noise_per_channel=False)
    assert not torch.equal(own[0], own[1])
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(shared[0], image[0])


def test_each_channel_may_have_its_own_deviation():
    noise = draw(torch.ones(2, 64, 64), noise_sd=[0.0, 0.5]) - 1
    assert (noise[0] == 0).all()
    assert noise[1].std() > 0.1


def test_same_seed_gives_the_same_noise_and_another_seed_another():
    image = torch.rand(3, 40, 30) + 0.1
    assert torch.equal(draw(image, 3), draw(image, 3))
    assert not torch.equal(draw(image, 3), draw(image, 4))


def test_noise_does_not_depend_on_what_the_images_show():
    first, second = (batch_noise(images) for images in (torch.ones(2, 3, 8, 8), torch.rand(2, 3, 8, 8) + 1))
    assert_close(first[0] - first[1], second[0] - second[1], rtol=0, atol=1e-6)


def test_no_deviation_changes_nothing():
    image = torch.rand(3, 20, 20)
    assert torch.equal(draw(image, noise_sd=0.0), image)


def test_the_clean_images_are_the_target_and_stay_as_they_are():
    images = torch.rand(2, 3, 20, 20)
    before = images.clone()
    noisy, clean = batch_noise(images)
    assert torch.equal(clean, before)
    assert torch.equal(images, before)
    assert not torch.equal(noisy, before)


def test_all_zero_slices_stay_zero():
    assert not draw(torch.zeros(3, 20, 20)).any()
    assert not add_in_foreground(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)).any()


def test_noise_is_added_above_the_given_threshold_alone():
    images = torch.tensor([[[[0.05, 0.5]]]])
    noisy = add_in_foreground(images, torch.ones(1, 1, 1, 2), foreground_threshold=0.1)
    assert_close(noisy, torch.tensor([[[[0.05, 1.5]]]]))


def test_foreground_is_the_sum_of_channels():
    image = torch.tensor([[[0.006, 0.01]], [[0.006, 0.0]]])
    assert foreground_mask(image).tolist() == [[[True, False]]]
    assert foreground_mask(image[None], channel_dim=1).shape == (1, 1, 1, 2)


@pytest.mark.parametrize("settings", [{"noise_sd": -0.1}, {"noise_sd": [0.1, -0.1]}, {"noise_resolution": 0}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(ConfigError, match=r"noise_sd is .*, noise_resolution .*; accepted are"):
        CoarseNoise(**settings)


def test_noise_of_several_grids_is_added_up():
    """Each grid is drawn in turn; the sum has the deviation of one."""
    images = torch.ones(2, 1, 33, 33)
    noise, generator = CoarseNoise(noise_resolution=9, more_resolutions=[3, 17]), step_generator(4)
    parts = [coarse_noise(noise.draw(images.shape, generator, points), (33, 33)) for points in (9, 3, 17)]
    noisy, _ = batch_noise(images, 4, noise_resolution=9, more_resolutions=[3, 17])
    assert_close(noisy - images, sum(parts) / 3**0.5, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"more_resolutions \[0\]; accepted are"):
        CoarseNoise(more_resolutions=[0])
