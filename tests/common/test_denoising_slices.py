"""Slices: from volumes and files, scaled by patient, brought to one size."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from common.denoising import (
    LoadSliced,
    ScaleByPercentiled,
    fit_size,
    foreground_percentiles,
    slice_cases,
)
from common.denoising.loading import subtract_border
from common.denoising.volumes import stack_planes, write_map
from common.errors import ConfigError, LabelError
from common.transforms import LoadScand
from tests.common.slices import picture, write_picture, write_volume


class TestVolumes:
    def test_slices_are_those_that_show_anything(self, tmp_path):
        slices = slice_cases([write_volume(tmp_path / "v")])
        # The third axis points downwards: the order is that of RAS.
        assert [case["plane"] for case in slices] == [1, 2, 3, 4]
        assert [case["case"] for case in slices] == [f"v_s{n:03d}" for n in (1, 2, 3, 4)]
        assert len({case["image"] for case in slices}) == 1, "one patient"
        assert all(case["volume"] == "v" and case["slice"] == case["plane"] for case in slices)

    def test_doing_it_again_changes_nothing(self, tmp_path):
        slices = slice_cases([write_volume(tmp_path / "v")])
        assert slice_cases(slices) == slices

    def test_volumes_stay_volumes_in_3d(self, tmp_path):
        case = write_volume(tmp_path / "v")
        assert slice_cases([case], spatial_dims=3) == [case]

    @pytest.mark.parametrize("channels", [None, 3])
    def test_slices_are_loaded_with_all_channels(self, tmp_path, channels):
        case = write_volume(tmp_path / "v", channels=channels)
        volume = nib.as_closest_canonical(nib.load(case["image"])).get_fdata()
        load = LoadSliced(["image", "label"])
        for item in slice_cases([case]):
            loaded = load(item)
            expected = volume[:, :, item["plane"]]
            expected = expected[None] if channels is None else np.moveaxis(expected, -1, 0)
            np.testing.assert_allclose(loaded["image"].numpy(), expected, rtol=1e-6)
            assert loaded["label"].shape == (1, *expected.shape[1:])
            assert bool(loaded["label"].any()) == (item["plane"] in (2, 3))

    def test_spacing_of_a_slice_is_that_of_its_axes(self, tmp_path):
        (first, *_) = slice_cases([write_volume(tmp_path / "v")])
        affine = LoadSliced("image")(first)["image"].affine
        assert torch.diag(affine).tolist() == pytest.approx([0.8, 1.2, 1])

    def test_label_of_another_size_is_refused(self, tmp_path):
        case, other = write_volume(tmp_path / "v"), write_volume(tmp_path / "w", (12, 10, 7))
        mixed = case | {"label": other["label"]}
        with pytest.raises(LabelError, match=r"case 'v.*both must be equal"):
            LoadSliced(["image", "label"])(slice_cases([mixed])[0])

    def test_slices_put_together_are_the_volume(self, tmp_path):
        case = write_volume(tmp_path / "v")
        load = LoadSliced("image")
        planes = {item["plane"]: load(item)["image"][0] for item in slice_cases([case])}
        stack = stack_planes(planes, LoadScand("image")({"image": case["image"]})["image"])
        write_map(stack, tmp_path / "out.nii.gz", np.float32)
        first, second = nib.load(case["image"]), nib.load(tmp_path / "out.nii.gz")
        np.testing.assert_allclose(second.affine, first.affine, atol=1e-5)
        np.testing.assert_allclose(second.get_fdata(), first.get_fdata(), rtol=1e-6)


class TestScale:
    def test_percentile_is_of_positive_intensities(self):
        image = torch.arange(-50.0, 101.0).reshape(1, 1, -1)
        assert foreground_percentiles([image], 99) == pytest.approx([np.percentile(np.arange(1, 101), 99)])
        assert foreground_percentiles([torch.zeros(2, 3, 3)]) == [0, 0]

    def test_slices_of_a_patient_share_their_scale(self, tmp_path):
        cases = [write_picture(tmp_path / f"s{n}", picture(value), patient="p") for n, value in enumerate((50, 200))]
        cases.append(write_picture(tmp_path / "other", picture(100), patient="q"))
        slices = slice_cases(cases)
        assert [case["scale"] for case in slices] == [[200] * 3, [200] * 3, [100] * 3]
        load = Compose([LoadSliced("image"), ScaleByPercentiled("image")])
        assert [float(load(case)["image"].max()) for case in slices] == pytest.approx([0.25, 1, 1])

    def test_patients_of_two_data_sets_are_two(self, tmp_path):
        cases = [write_picture(tmp_path / f"s{n}", picture(50 + n), patient="p", task=f"t{n}") for n in range(2)]
        assert [case["scale"][0] for case in slice_cases(cases)] == [50, 51]

    def test_pictures_are_there_once_more_as_they_are_met_alone(self, tmp_path):
        cases = [write_picture(tmp_path / f"s{n}", picture(value), patient="p") for n, value in enumerate((50, 200))]
        slices = slice_cases([*cases, write_volume(tmp_path / "volume")], alone=True)
        assert [case["scale"] for case in slices[:3]] == [[200] * 3, [50] * 3, [200] * 3]
        assert [case["plane"] for case in slices[3:]] == [1, 2, 3, 4], "planes come with their volume"

    def test_image_without_a_scale_has_its_own(self):
        image = torch.stack([torch.full((4, 4), 8.0), torch.full((4, 4), 2.0)])
        assert ScaleByPercentiled("image")({"image": image})["image"].unique().tolist() == [1]

    def test_channel_that_is_missing_in_a_patient_stays_zero(self, tmp_path, caplog):
        without = picture(100)
        without[..., 1] = 0
        cases = [write_picture(tmp_path / f"s{n}", without, patient="p") for n in range(2)]
        with caplog.at_level(logging.WARNING):
            slices = slice_cases(cases)
        assert "case 's0': channel(s) [1] hold nothing in the whole scan and stay zero" in caplog.text
        image = Compose([LoadSliced("image"), ScaleByPercentiled("image")])(slices[0])["image"]
        assert image[1].unique().tolist() == [0]
        assert image[0].max() == 1

    def test_empty_slices_are_left_out_with_a_line(self, tmp_path, caplog):
        cases = [write_picture(tmp_path / f"s{n}", picture(value), patient="p") for n, value in enumerate((0, 9))]
        with caplog.at_level(logging.INFO):
            assert [case["case"] for case in slice_cases(cases)] == ["s1"]
        assert "1 slice(s) are zero everywhere and are left out" in caplog.text
        assert len(slice_cases(cases, drop_empty=False)) == 2

    def test_unreadable_file_is_left_for_its_loading(self, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"nothing")
        case = {"image": str(tmp_path / "bad.png"), "case": "bad"}
        assert slice_cases([case]) == [case]

    @pytest.mark.parametrize("percentile", [0, 101])
    def test_impossible_percentile_is_named(self, percentile):
        with pytest.raises(ConfigError, match=f"percentile is {percentile}"):
            ScaleByPercentiled("image", percentile)


class TestBorder:
    def test_air_becomes_zero_and_the_rest_keeps_its_contrast(self):
        image = torch.full((2, 20, 20), 60.0)
        image[:, 5:15, 5:15] = 100
        image[1] += 3
        cleared = subtract_border(image)
        assert not cleared[:, 0].any()
        assert cleared[:, 5:15, 5:15].unique().tolist() == [40]
        assert subtract_border(image - 80).min() == 0
        assert torch.equal(subtract_border(torch.zeros(1, 6, 6, 6)), torch.zeros(1, 6, 6, 6))

    def test_inverted_image_is_not_lost(self):
        image = torch.full((3, 20, 20), 60.0)
        image[:2, 5:15, 5:15] = 100
        inverted = 255 - image
        assert torch.equal(subtract_border(inverted)[:2], inverted[:2])
        assert not subtract_border(inverted)[2].any(), "one value everywhere is air"

    def test_scale_is_that_of_what_is_left(self, tmp_path):
        cases = [
            write_picture(tmp_path / f"s{n}", picture(value) + 20, patient="p") for n, value in enumerate((30, 60))
        ]
        slices = slice_cases(cases, clear_border=True)
        load = Compose([LoadSliced("image"), ScaleByPercentiled("image", clear_border=True)])
        assert [float(load(case)["image"].max()) for case in slices] == pytest.approx([0.5, 1])
        assert not load(slices[0])["image"][:, :4].any()


class TestSize:
    @pytest.mark.parametrize("size", [(30, 20), (20, 30), (64, 64), (7, 9)])
    def test_every_size_becomes_one_and_can_be_undone(self, size):
        fit = fit_size(["image", "label"], [32, 32], ["area", "nearest"])
        image = MetaTensor(torch.rand(3, *size) + 1, affine=torch.eye(4))
        label = MetaTensor((torch.rand(1, *size) > 0.5).float(), affine=torch.eye(4))
        fitted = fit({"image": image, "label": label})
        assert fitted["image"].shape == (3, 32, 32)
        assert set(fitted["label"].unique().tolist()) <= {0, 1}
        filled = (fitted["image"][0] > 0).sum() / 32**2
        assert float(filled) == pytest.approx(min(size) / max(size), abs=0.06)
        assert fit.inverse(fitted)["image"].shape == (3, *size)

    def test_unequal_axes_are_refused(self):
        with pytest.raises(ConfigError, match=r"roi_size is \[32, 16\]; accepted are equal numbers"):
            fit_size("image", [32, 16], "area")
