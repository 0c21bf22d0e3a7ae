import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import convolve1d
from scipy.stats import norm
from torch.testing import assert_close

from common.errors import ConfigError
from common.transforms import damage
from common.transforms.damage import DAMAGES, MOVING, DamageScand

VOLUME, PICTURE = (1, 6, 5, 9), (2, 6, 9)


def make_image(shape=VOLUME, seed=0):
    return 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rescaled(changed, image):
    """With the standard deviation that the image had."""
    return changed * float(image.std()) / float(changed.std())


def by_hand_noise(image, std):
    return image + std * torch.randn(image.shape, generator=generator())


def by_hand_gamma(image, gamma):
    values = [((float(v) - float(image.min())) / float(image.max() - image.min())) ** gamma for v in image.flatten()]
    return rescaled(torch.tensor(values).reshape(image.shape), image)


def by_hand_inversion(image):
    return torch.tensor([float(image.max()) - float(v) for v in image.flatten()]).reshape(image.shape)


def by_hand_blur(image, sigma):
    """The share of a Gaussian that falls on each voxel, up to four sigma; nothing lies beyond the image."""
    blurred = image.numpy().astype(float)
    weights = [norm.cdf((k + 0.5) / sigma) - norm.cdf((k - 0.5) / sigma) for k in range(-4 * sigma, 4 * sigma + 1)]
    for axis in range(1, image.ndim):
        blurred = convolve1d(blurred, weights, axis=axis, mode="constant")
    return rescaled(torch.from_numpy(blurred).float(), image)


def by_hand_thick_slices(image, factor):
    """Slice means at their centers, linear between them, constant beyond the outermost; whole groups only."""
    groups = image.shape[-1] // factor
    means = np.stack([image[..., g * factor : (g + 1) * factor].numpy().mean(-1) for g in range(groups)], axis=-1)
    centers = [g * factor + (factor - 1) / 2 for g in range(groups)]
    lines = [np.interp(range(image.shape[-1]), centers, line) for line in means.reshape(-1, groups)]
    return rescaled(torch.tensor(np.stack(lines).reshape(image.shape), dtype=torch.float32), image)


def by_hand_bias(image, low, high):
    rows = image.shape[1]
    factors = [low + (high - low) * row / (rows - 1) for row in range(rows)]
    return rescaled(torch.stack([image[:, row] * factors[row] for row in range(rows)], dim=1), image)


def by_hand_flip(image):
    return torch.stack([image[:, row] for row in reversed(range(image.shape[1]))], dim=1)


BY_HAND = {
    "noise_0.3": lambda image: by_hand_noise(image, 0.3),
    "noise_0.6": lambda image: by_hand_noise(image, 0.6),
    "gamma_1.5": lambda image: by_hand_gamma(image, 1.5),
    "gamma_2": lambda image: by_hand_gamma(image, 2),
    "inversion": by_hand_inversion,
    "blur_1": lambda image: by_hand_blur(image, 1),
    "blur_2": lambda image: by_hand_blur(image, 2),
    "thick_slices_3": lambda image: by_hand_thick_slices(image, 3),
    "bias_field": lambda image: by_hand_bias(image, 0.5, 1.5),
    "flip": by_hand_flip,
}


@pytest.mark.parametrize("shape", [VOLUME, PICTURE])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_what_a_calculation_by_hand_gives(name, shape):
    image = make_image(shape)
    before = image.clone()
    assert_close(DAMAGES[name](image, generator()), BY_HAND[name](image), rtol=1e-4, atol=1e-4)
    assert torch.equal(image, before)


@pytest.mark.parametrize("shape", [VOLUME, PICTURE])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_changes_values_and_neither_shape_nor_type(name, shape):
    image = make_image(shape)
    damaged = DAMAGES[name](image, generator())
    assert (damaged.shape, damaged.dtype) == (image.shape, image.dtype)
    assert torch.isfinite(damaged).all()
    assert not torch.allclose(damaged, image)


@pytest.mark.parametrize("shape", [VOLUME, PICTURE])
@pytest.mark.parametrize("name", [name for name in DAMAGES if not name.startswith("noise")])
def test_contrast_stays_where_a_normalization_would_restore_it(name, shape):
    image = make_image(shape)
    assert_close(DAMAGES[name](image, generator()).std(), image.std())


@pytest.mark.parametrize("name", ["gamma_2", "bias_field"])
def test_damage_keeps_zero_where_the_lowest_intensity_is_zero(name):
    image = make_image() - make_image().min()
    assert (DAMAGES[name](image, generator()) == 0).sum() == 1


@pytest.mark.parametrize(
    "identity",
    [
        lambda image: damage.add_noise(image, generator(), std=0.0),
        lambda image: damage.add_bias_field(image, generator(), low=0.7, high=0.7),
        lambda image: damage.thicken_slices(image, generator(), factor=1),
        lambda image: damage.blur(image, generator(), sigma=1e-3),
        lambda image: damage.flip_left_right(damage.flip_left_right(image, generator()), generator()),
        lambda image: damage.invert(damage.invert(image, generator()), generator()) + image.min(),
        lambda image: damage.change_gamma(image, generator(), gamma=1.0) + image.min(),
    ],
)
def test_damage_of_no_strength_or_undone_changes_nothing(identity):
    image = make_image()
    assert_close(identity(image), image, rtol=1e-4, atol=1e-4)


def test_thick_slices_leave_anatomy_in_its_place():
    ramp = torch.arange(11.0).expand(1, 4, 4, 11)
    thick = damage.thicken_slices(ramp, generator(), factor=3)
    # Averages of neighbors, interpolated linearly, keep a ramp where it is between the centers of whole groups; slice 4
    # is one, which tells the scale that keeps the contrast.
    assert_close(thick[..., 1:8] * 4 / thick[..., 4:5], ramp[..., 1:8], rtol=0, atol=1e-4)
    assert_close(thick.std(), ramp.std())


def damaged_case(name, case="c1", seed=0, **more):
    data = {"image": make_image(), "label": (make_image(seed=1) > 3).float(), "case": case, "damage": name} | more
    return data, DamageScand("image", seed=seed)(data)


@pytest.mark.parametrize("name", DAMAGES)
def test_label_follows_where_anatomy_is_moved_only(name):
    data, damaged = damaged_case(name)
    assert torch.equal(damaged["label"], data["label"].flip(1) if name in MOVING else data["label"])
    assert {key: damaged[key] for key in ("case", "damage")} == {"case": "c1", "damage": name}


def test_only_the_flip_moves_anatomy():
    assert MOVING == ("flip",)


def test_flip_needs_no_label():
    data = {"image": make_image(), "case": "c1", "damage": "flip"}
    assert torch.equal(DamageScand("image")(data)["image"], data["image"].flip(1))


def test_same_case_gets_the_same_noise_and_no_other_does():
    first, again = (damaged_case("noise_0.3")[1]["image"] for _ in range(2))
    assert torch.equal(first, again)
    others = [damaged_case("noise_0.3", case="c2"), damaged_case("noise_0.3", seed=1), damaged_case("noise_0.6")]
    noise = first - make_image()
    for data, damaged in others:
        other = damaged["image"] - data["image"]
        correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(noise.numel())


def test_noise_has_the_strength_of_its_name():
    image = torch.zeros(1, 32, 32, 32)
    damaged = DamageScand("image")({"image": image, "case": "c1", "damage": "noise_0.6"})["image"]
    assert float(damaged.std()) == pytest.approx(0.6, rel=0.02)
    assert float(damaged.mean()) == pytest.approx(0.0, abs=0.02)


def test_case_without_damage_passes():
    for extra in ({}, {"damage": None}):
        data = {"image": make_image(), "case": "c1"} | extra
        assert DamageScand("image")(data)["image"] is data["image"]


def test_affine_stays_with_the_damaged_image():
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(make_image(), affine=affine)
    damaged = DamageScand("image")({"image": image, "case": "c1", "damage": "blur_1"})["image"]
    assert isinstance(damaged, MetaTensor)
    assert_close(damaged.affine, affine)
    assert torch.equal(image.as_tensor(), make_image())


def test_unknown_damage_is_answered_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"damage 'rain' does not exist; accepted are noise_0\.3, .*flip"):
        damaged_case("rain")
