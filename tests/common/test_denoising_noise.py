"""Coarse noise: its statistics, where it is added, and that its parameters are drawn apart from its use."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.denoising import RandCoarseNoised, add_in_foreground, coarse_noise, foreground_mask
from common.errors import ConfigError


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


def draw(image, seed=0, **settings):
    transform = RandCoarseNoised("image", **settings)
    transform.set_random_state(seed=seed)
    return transform({"image": image})["image"]


def test_noise_is_interpolated_as_by_hand():
    grid = torch.randn(1, 4, 5, dtype=torch.float64)
    found = coarse_noise(grid, (11, 9), (0, 0))[0]
    np.testing.assert_allclose(found.numpy(), slow_enlarge(grid[0].numpy(), (11, 9)), atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_noise_is_rolled(dims):
    grid = torch.randn(2, *[4] * dims)
    size, shift = (13, 10, 7)[:dims], (5, 9, 2)[:dims]
    still, rolled = coarse_noise(grid, size, [0] * dims), coarse_noise(grid, size, shift)
    for place in [(0, 0, 0), (12, 9, 6), (3, 4, 5)]:
        target = tuple((a + b) % n for a, b, n in zip(place[:dims], shift, size, strict=True))
        assert_close(rolled[(slice(None), *target)], still[(slice(None), *place[:dims])])


@pytest.mark.parametrize(("size", "resolution"), [((61, 61), 16), ((25, 25, 25), 7)])
def test_noise_has_mean_zero_and_the_asked_deviation_at_grid_points(size, resolution):
    """With sizes of which the grid's points are voxels: every fourth one, before rolling."""
    transform = RandCoarseNoised("image", noise_sd=0.2, noise_resolution=resolution)
    transform.set_random_state(seed=1)
    values = []
    for _ in range(60):
        transform.randomize((3, *size))
        noise = coarse_noise(transform._grid, size, transform._shift)
        still = noise.roll([-n for n in transform._shift], dims=tuple(range(1, noise.ndim)))
        values.append(still[(slice(None), *[slice(None, None, 4)] * len(size))].flatten())
    values = torch.cat(values)
    error = 1 / len(values) ** 0.5
    assert abs(float(values.mean())) < 4 * 0.2 * error
    assert float(values.std()) == pytest.approx(0.2, rel=3 * error)
    assert len(set(transform._shift)) > 1


def test_noise_between_grid_points_varies_less():
    noise = draw(torch.ones(200, 61, 61), noise_resolution=16, noise_sd=1.0) - 1
    assert 0.3 < float(noise.std()) < 0.8


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_added_outside_the_foreground(dims):
    image = torch.rand(3, *[24] * dims)
    image[:, :7] = 0.003
    noise = draw(image) - image
    assert (noise[:, :7] == 0).all()
    assert (noise[:, 7:] != 0).float().mean() > 0.99


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


def test_a_second_call_draws_anew():
    transform = RandCoarseNoised("image")
    transform.set_random_state(seed=0)
    image = torch.ones(1, 32, 32)
    assert not torch.equal(transform({"image": image})["image"], transform({"image": image})["image"])


def test_no_deviation_changes_nothing():
    image = torch.rand(3, 20, 20)
    assert torch.equal(draw(image, noise_sd=0.0), image)


def test_probability_zero_changes_nothing():
    image = torch.rand(3, 20, 20)
    assert torch.equal(draw(image, prob=0.0), image)


def test_the_input_is_left_alone():
    image = torch.rand(3, 20, 20)
    before = image.clone()
    draw(image)
    assert torch.equal(image, before)


def test_all_zero_slices_stay_zero():
    assert not draw(torch.zeros(3, 20, 20)).any()
    assert not add_in_foreground(torch.zeros(1, 4, 4), torch.ones(1, 4, 4)).any()


def test_noise_is_added_above_the_given_threshold_alone():
    image = torch.tensor([[[0.05, 0.5]]])
    assert add_in_foreground(image, torch.ones(1, 1, 2), foreground_threshold=0.1).tolist() == [[[image[0, 0, 0], 1.5]]]


def test_foreground_is_the_sum_of_channels():
    image = torch.tensor([[[0.006, 0.01]], [[0.006, 0.0]]])
    assert foreground_mask(image).tolist() == [[[True, False]]]
    assert foreground_mask(image[None], channel_dim=1).shape == (1, 1, 1, 2)


@pytest.mark.parametrize("settings", [{"noise_sd": -0.1}, {"noise_sd": [0.1, -0.1]}, {"noise_resolution": 0}])
def test_impossible_settings_are_named(settings):
    with pytest.raises(ConfigError, match=r"noise_sd is .* and noise_resolution .*; accepted are"):
        RandCoarseNoised("image", **settings)
