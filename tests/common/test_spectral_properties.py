"""Plain properties of scans, their ranges over a training set, and the words for what a scan leaves."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd

from common.spectral.properties import ScanProperties, measure_intensities, measure_properties, measure_texture
from common.spectral.ranges import PropertyRanges
from common.transforms import CaseLoading
from common.transforms.damage import DAMAGES

AFFINE = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]])
"""Axes to the back, up and to the right, of 1, 3 and 2 mm."""


def textured(*size, channels=1, seed=0):
    """An image that is smooth but for some noise."""
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(axis / (2 + number)) for number, axis in enumerate(np.indices(size)))
    return torch.from_numpy(np.stack([waves + 0.3 * rng.normal(size=size)] * channels)).float()


def scan(noise=0.02, spacing=1.0, plane="axial", modality="MR", **more):
    spacings = {"spacing_x": 1.0, "spacing_y": 1.0, "spacing_z": spacing}
    return ScanProperties({"noise": noise, **spacings, **more}, plane, modality)


def test_geometry_is_that_of_the_file_whatever_the_network_takes(save_nifti, tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", textured(12, 10, 8)[0].numpy(), AFFINE)
    turn = Orientationd("image", axcodes="RAS", labels=None)
    prepare = Compose([*CaseLoading(3, 1).image(), turn, Spacingd("image", (1.5, 1.5, 1.5))])
    image = prepare({"image": path, "case": "a"})["image"]
    measured = measure_properties(image, {"modality": "CT"})
    found = {name: measured.numbers[name] for name in measured.numbers if name.split("_")[0] in ("spacing", "extent")}
    expected = {"spacing_x": 2.0, "extent_x": 16.0, "spacing_y": 1.0, "extent_y": 12.0}
    assert found == pytest.approx(expected | {"spacing_z": 3.0, "extent_z": 30.0})
    assert (measured.plane, measured.modality) == ("sagittal", "CT")
    assert measured.numbers["tilt"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 12.0, 30.0])
def test_tilt_is_the_angle_to_the_nearest_axis(degrees):
    turn = math.radians(degrees)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    meta = {"original_affine": affine, "spatial_shape": (8, 8, 8)}
    assert measure_properties(MetaTensor(textured(8, 8, 8), meta=meta)).numbers["tilt"] == pytest.approx(degrees)


def test_picture_has_an_extent_in_pixels_and_no_spacing():
    picture = MetaTensor(textured(30, 20, channels=3), meta={"spatial_shape": (60, 40)})
    numbers = measure_properties(picture).numbers
    assert (numbers["extent_w"], numbers["extent_h"]) == (60.0, 40.0)
    kinds = {"extent_w", "extent_h", "noise", "sharpness_w", "sharpness_h"}
    assert set(numbers) == kinds | {f"{level}_{channel}" for level in ("dark", "median", "bright") for channel in "012"}


def test_image_without_metadata_has_intensities_and_texture_alone():
    measured = measure_properties(textured(9, 9, 9))
    names = {"dark_0", "median_0", "bright_0", "noise", "sharpness_x", "sharpness_y", "sharpness_z"}
    assert (set(measured.numbers), measured.plane, measured.modality) == (names, "", "")


def test_intensities_are_quantiles_of_each_channel():
    image = torch.stack([torch.linspace(0, 1, 10_001), torch.linspace(5, 7, 10_001)]).reshape(2, 73, 137)
    numbers = measure_intensities(image)
    expected = {"dark_0": 0.01, "median_0": 0.5, "bright_0": 0.99, "dark_1": 5.02, "median_1": 6.0, "bright_1": 6.98}
    assert numbers == pytest.approx(expected, abs=1e-3)


def test_noise_is_a_share_of_the_range_of_intensities():
    smooth = torch.linspace(0, 10, 32).reshape(1, 32, 1, 1).expand(1, 32, 32, 32)
    for std in (0.1, 0.5):
        noisy = smooth + std * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
        assert measure_texture(noisy)["noise"] == pytest.approx(std / 10, rel=0.1)
        # Air of one value, as around a head without its skull, hides none of it.
        noisy[:, :, :12] = 0
        assert measure_texture(noisy)["noise"] == pytest.approx(std / 10, rel=0.15)


@pytest.mark.parametrize(
    ("damage", "name", "sign"),
    [("blur_1", "sharpness_x", -1), ("thick_slices_3", "sharpness_z", -1), ("noise_0.3", "noise", 1)],
)
def test_damage_moves_the_property_that_tells_it(damage, name, sign):
    image = textured(24, 24, 24)
    damaged = DAMAGES[damage](image, torch.Generator().manual_seed(0))
    before, after = measure_texture(image), measure_texture(damaged)
    assert sign * (after[name] - before[name]) > 0.25 * before[name]
    if damage == "thick_slices_3":
        assert after["sharpness_z"] < 0.7 * after["sharpness_x"]


def test_flat_and_tiny_images_leave_out_what_they_do_not_tell():
    assert set(measure_properties(torch.ones(1, 4, 4, 4)).numbers) == {"dark_0", "median_0", "bright_0"}
    assert "sharpness_z" not in measure_properties(textured(8, 8, 2)).numbers


def test_ranges_hold_what_all_scans_have():
    ranges = PropertyRanges.of([scan(0.02, tilt=1.0), scan(0.04, 1.2, modality="CT"), scan(0.03, plane="")])
    assert ranges.names == ("noise", "spacing_x", "spacing_y", "spacing_z")
    assert ranges.limits.tolist() == [[0.02, 0.04], [1.0, 1.0], [1.0, 1.0], [1.0, 1.2]]
    assert (ranges.planes, ranges.modalities) == (("axial",), ("CT", "MR"))
    assert PropertyRanges.of([]) is None


@pytest.mark.parametrize(
    ("left", "phrases"),
    [
        (scan(), []),
        (scan(0.045), []),
        (scan(0.06), ["noise 0.06, training 0.02 to 0.04"]),
        (scan(spacing=7.7), ["slice thickness 7.7 mm, training 1 to 1.2 mm"]),
        (scan(spacing=0.5), ["voxel size foot to head 0.5 mm, training 1 to 1.2 mm"]),
        (scan(plane="coronal"), ["plane coronal, training axial"]),
        (scan(modality="CT"), ["modality CT, training MR"]),
        (scan(modality=""), []),
        (ScanProperties(), []),
    ],
)
def test_scan_is_told_what_it_leaves(left, phrases):
    assert PropertyRanges.of([scan(), scan(0.04, 1.2)]).left_by(left) == phrases


def test_farthest_comes_first():
    phrases = PropertyRanges.of([scan(), scan(0.04, 1.2)]).left_by(scan(0.06, 7.7, modality="CT"))
    assert [phrase.split()[0] for phrase in phrases] == ["modality", "slice", "noise"]


def test_words_for_every_property():
    numbers = {"extent_x": 10.0, "tilt": 0.0, "sharpness_y": 1.0, "dark_0": 0.0, "dark_1": 0.0}
    numbers |= {"median_0": 1.0, "median_1": 1.0, "bright_1": 2.0, "extent_w": 100.0, "sharpness_h": 1.0}
    ranges = PropertyRanges.of([ScanProperties(numbers)])
    far = ScanProperties({name: value + 50.0 for name, value in numbers.items()})
    assert sorted(ranges.left_by(far)) == [
        "bright intensities (99 %) of channel 2 52, training 2",
        "dark intensities (1 % quantile) of channel 1 50, training 0",
        "dark intensities (1 % quantile) of channel 2 50, training 0",
        "extent along the width 150 pixels, training 100 pixels",
        "extent left to right 60 mm, training 10 mm",
        "median intensity of channel 1 51, training 1",
        "median intensity of channel 2 51, training 1",
        "sharpness along the height 51, training 1",
        "sharpness back to front 51, training 1",
        "tilt of the axes 50 degrees, training 0 degrees",
    ]


def test_tilt_and_intensities_have_a_slack_of_their_own():
    numbers = {"tilt": 0.0, "dark_0": 0.0, "bright_0": 2.0}
    ranges = PropertyRanges.of([ScanProperties(numbers)])
    assert ranges.left_by(ScanProperties({"tilt": 4.9, "dark_0": 0.09, "bright_0": 2.09})) == []
    assert len(ranges.left_by(ScanProperties({"tilt": 5.1, "dark_0": 0.11, "bright_0": 1.89}))) == 3


def test_merged_ranges_hold_both():
    first, second = PropertyRanges.of([scan(0.02)]), PropertyRanges.of([scan(0.04, 3.0, "coronal", "CT", tilt=1.0)])
    both = PropertyRanges.merge([first, second])
    assert both.limits[both.names.index("noise")].tolist() == [0.02, 0.04]
    assert (both.planes, both.modalities, "tilt" in both.names) == (("axial", "coronal"), ("CT", "MR"), False)
    assert PropertyRanges.merge([first, None]) is None
