import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import convolve1d
from scipy.stats import norm
from torch.testing import assert_close

from common.errors import ConfigError
from common.transforms import damage, kspace
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
    """Slice means at their centers, linear between them, constant beyond the outermost; the last slice fills up."""
    groups = -(-image.shape[-1] // factor)
    slices = [min(k, image.shape[-1] - 1) for k in range(groups * factor)]
    filled = image.numpy()[..., slices]
    means = np.stack([filled[..., g * factor : (g + 1) * factor].mean(-1) for g in range(groups)], axis=-1)
    centers = [g * factor + (factor - 1) / 2 for g in range(groups)]
    lines = [np.interp(range(image.shape[-1]), centers, line) for line in means.reshape(-1, groups)]
    return rescaled(torch.tensor(np.stack(lines).reshape(image.shape), dtype=torch.float32), image)


def by_hand_bias(image, low, high):
    rows = image.shape[1]
    factors = [low + (high - low) * row / (rows - 1) for row in range(rows)]
    return rescaled(torch.stack([image[:, row] * factors[row] for row in range(rows)], dim=1), image)


def by_hand_flip(image):
    return torch.stack([image[:, row] for row in reversed(range(image.shape[1]))], dim=1)


def by_hand_resampling(image, factor):
    """Linear between the centers of the coarse voxels and back, axis by axis, constant beyond the outermost."""
    found = image.numpy().astype(float)
    for axis in range(1, image.ndim):
        size = image.shape[axis]
        coarse = round(size / factor)
        fine_centers, coarse_centers = np.arange(size) + 0.5, (np.arange(coarse) + 0.5) * size / coarse
        for places, centers in ((coarse_centers, fine_centers), (fine_centers, coarse_centers)):
            found = np.apply_along_axis(lambda line, p=places, c=centers: np.interp(p, c, line), axis, found)
    return rescaled(torch.from_numpy(found).float(), image)


def frequencies_by_hand(size):
    """The whole numbers of the frequencies, in the order of numpy's Fourier transform."""
    return [k if k <= (size - 1) // 2 else k - size for k in range(size)]


def transformed(image, change):
    """The image with its spectrum changed at every place: ``change(value, frequencies)``."""
    spectrum = np.fft.fftn(image.numpy().astype(float), axes=range(1, image.ndim))
    axes = [frequencies_by_hand(size) for size in image.shape[1:]]
    for place in np.ndindex(*image.shape[1:]):
        for channel in range(len(spectrum)):
            spectrum[(channel, *place)] = change(
                spectrum[(channel, *place)], [a[p] for a, p in zip(axes, place, strict=True)]
            )
    return torch.from_numpy(np.fft.ifftn(spectrum, axes=range(1, image.ndim)).real).float()


def by_hand_ringing(image, alpha):
    """Frequencies outside a sphere are lost; its center lies between the middle frequencies, as MONAI has it."""
    shape = image.shape[1:]
    radius = (1 - alpha) * max(shape) * math.sqrt(2) / 2

    def kept(value, frequencies):
        places = [f + size // 2 - (size - 1) / 2 for f, size in zip(frequencies, shape, strict=True)]
        return value if math.dist(places, [0] * len(places)) <= radius else 0

    return rescaled(transformed(image, kept), image)


def by_hand_stripes(image, strength, number):
    """Waves whose frequencies are the drawn ones, with the phase that the image has there."""
    draws, shape = generator(), image.shape[1:]
    magnitude = strength * float(image.std()) * math.prod(shape)
    places = [tuple(int(n * (0.25 + 0.5 * float(torch.rand((), generator=draws)))) for n in shape)
              for _ in range(number)]  # fmt: skip

    def spiked(value, frequencies):
        hit = tuple(f + n // 2 for f, n in zip(frequencies, shape, strict=True)) in places
        return value / abs(value) * magnitude if hit else value

    return rescaled(transformed(image, spiked), image)


def by_hand_ghost(image, strength):
    """Of an even number of rows: the image and, shifted by half of them, its ghost."""
    ghost = image.roll(image.shape[1] // 2, dims=1)
    return rescaled((1 - strength / 2) * image + strength / 2 * ghost, image)


def by_hand_motion(image, voxels, share):
    size = image.shape[1]
    order = sorted(frequencies_by_hand(size))
    late = order[round(size * (1 - share)) :]

    def moved(value, frequencies):
        turn = np.exp(-2j * math.pi * frequencies[0] / size * voxels)
        return value * turn if frequencies[0] in late else value

    return rescaled(transformed(image, moved), image)


def by_hand_low_dose(image, hounsfield):
    """White noise, smoothed in the plane of the slices by the share of a Gaussian that falls on each voxel."""
    noise = torch.randn(image.shape, generator=generator()).numpy()
    weights = [norm.cdf((k + 0.5) / 0.7) - norm.cdf((k - 0.5) / 0.7) for k in range(-3, 4)]
    for axis in (1, 2):
        noise = convolve1d(noise, weights, axis=axis, mode="constant")
    return image + torch.from_numpy(noise / noise.std(ddof=1) * hounsfield / 2000)


def by_hand_crop(image):
    """Of 6, 5 and 9 voxels the inner 4, 4 and 7."""
    kept = {6: slice(1, 5), 5: slice(0, 4), 9: slice(1, 8)}
    return image[(slice(None), *(kept[size] for size in image.shape[1:]))]


BY_HAND = {
    "noise_0.3": lambda image: by_hand_noise(image, 0.3),
    "noise_0.6": lambda image: by_hand_noise(image, 0.6),
    "gamma_1.5": lambda image: by_hand_gamma(image, 1.5),
    "gamma_2": lambda image: by_hand_gamma(image, 2),
    "inversion": by_hand_inversion,
    "blur_1": lambda image: by_hand_blur(image, 1),
    "blur_2": lambda image: by_hand_blur(image, 2),
    "thick_slices_3": lambda image: by_hand_thick_slices(image, 3),
    "thick_slices_2": lambda image: by_hand_thick_slices(image, 2),
    "resampling_2": lambda image: by_hand_resampling(image, 2),
    "gibbs_0.5": lambda image: by_hand_ringing(image, 0.5),
    "gibbs_0.7": lambda image: by_hand_ringing(image, 0.7),
    "spikes": lambda image: by_hand_stripes(image, 0.5, 2),
    "ghosting": lambda image: by_hand_ghost(image, 0.4),
    "motion": lambda image: by_hand_motion(image, 4, 0.4),
    "low_dose_40": lambda image: by_hand_low_dose(image, 40),
    "low_dose_80": lambda image: by_hand_low_dose(image, 80),
    "crop": by_hand_crop,
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
    assert damaged.dtype == image.dtype
    assert torch.isfinite(damaged).all()
    if name == "crop":
        assert damaged.shape < image.shape
    else:
        assert damaged.shape == image.shape
        assert not torch.allclose(damaged, image)


@pytest.mark.parametrize("shape", [VOLUME, PICTURE])
@pytest.mark.parametrize("name", [name for name in DAMAGES if not name.startswith(("noise", "low_dose", "crop"))])
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
        lambda image: damage.add_low_dose_noise(image, generator(), hounsfield=0.0),
        lambda image: damage.resample(image, generator(), factor=1.0),
        lambda image: damage.crop_field(image, generator(), share=1.0),
        lambda image: kspace.ring(image, alpha=0.0),
        lambda image: kspace.add_ghost(image, strength=0.0),
        lambda image: kspace.move(image, voxels=3.0, share=0.0),
        lambda image: kspace.move(image, voxels=0.0, share=0.5),
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
    moved = {"flip": data["label"].flip(1), "crop": by_hand_crop(data["label"])}
    assert torch.equal(damaged["label"], moved.get(name, data["label"]))
    assert damaged["label"].shape == damaged["image"].shape
    assert {key: damaged[key] for key in ("case", "damage")} == {"case": "c1", "damage": name}


def test_no_other_damage_moves_anatomy():
    assert MOVING == ("crop", "flip")


def test_low_dose_has_the_strength_of_its_name_in_the_window_of_the_image():
    image = torch.zeros(1, 24, 24, 24)
    data = {"image": image, "case": "c1", "damage": "low_dose_40"}
    for window, width in (((-1000, 1000), 2000), ((-150, 250), 400)):
        damaged = DamageScand("image", hounsfield_window=window)(data)["image"]
        assert float(damaged.std()) == pytest.approx(40 / width, rel=1e-4)


def test_noise_of_low_dose_is_alike_in_neighbors_of_a_slice_and_not_between_slices():
    noise = damage.add_low_dose_noise(torch.zeros(1, 32, 32, 32), generator(), hounsfield=100.0)[0]
    in_plane = torch.corrcoef(torch.stack([noise[1:].flatten(), noise[:-1].flatten()]))[0, 1]
    between = torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]
    assert float(in_plane) > 0.3
    assert abs(float(between)) < 0.03


def test_motion_during_the_whole_scan_only_shifts():
    image = make_image()
    assert_close(kspace.move(image, voxels=2.0, share=1.0), image.roll(2, dims=1), rtol=1e-4, atol=1e-4)


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
