"""Slices: from volumes and files, scaled by patient, brought to one size; which are healthy, who is labeled."""

import json
import logging
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped
from PIL import Image

from common.denoising import (
    HealthySlices,
    LoadSliced,
    RandCoarseNoised,
    ScaleByPercentiled,
    SliceDataset,
    draw_patients,
    fit_size,
    foreground_percentiles,
    slice_cases,
)
from common.denoising.loading import subtract_border
from common.denoising.volumes import stack_planes, write_map
from common.errors import ConfigError, LabelError, MissingDataError, NotEnoughCasesError
from common.transforms import LoadScand

OBLIQUE = np.array([[0, -0.8, 0, 12], [-1.2, 0, 0, 7], [0, 0, -3, 3.5], [0, 0, 0, 1.0]])


def write_volume(path, shape=(12, 10, 6), seed=0, channels=None, affine=OBLIQUE):
    """A volume whose first and last slices are empty, with a label in two slices; as a case."""
    rng = np.random.default_rng(seed)
    size = shape if channels is None else (*shape, channels)
    image = rng.uniform(10, 200, size).astype(np.float32)
    image[:, :, [0, -1]] = 0
    label = np.zeros(shape, dtype=np.uint8)
    label[3:7, 2:6, 2:4] = 1
    path.mkdir(parents=True, exist_ok=True)
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), path / f"{name}.nii.gz")
    return {"image": str(path / "image.nii.gz"), "label": str(path / "label.nii.gz"), "case": path.name}


def write_picture(path, array, label=None, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(f"{path}.png")
    case = {"image": f"{path}.png", "case": path.name, **keys}
    if label is not None:
        Image.fromarray(np.asarray(label, dtype=np.uint8)).save(f"{path}_label.png")
        case["label"] = f"{path}_label.png"
    return case


def picture(value, size=(16, 16)):
    array = np.zeros((*size, 3))
    array[4:12, 4:12] = value
    return array


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


@pytest.fixture
def dataset(tmp_path):
    """Three patients of four slices, of which two hold foreground; sizes differ."""
    cases = []
    for patient in range(3):
        for number in range(4):
            size = (16 + 2 * patient, 18)
            label = np.zeros(size)
            label[6:9, 6:9] = number in (1, 2)
            keys = {"patient": f"p{patient}", "slice": number, "task": "t"}
            cases.append(write_picture(tmp_path / f"p{patient}_{number}", picture(90 + number, size), label, **keys))
    prepare = Compose([
        ScaleByPercentiled("image"), fit_size("image", [16, 16], "area"),
        fit_size("label", [16, 16], "nearest", allow_missing_keys=True),
        EnsureTyped(["image", "label"], track_meta=False, allow_missing_keys=True),
    ])  # fmt: skip
    return SliceDataset(cases, LoadSliced(["image", "label"]), prepare)


def noisy():
    return Compose(
        [lambda data: {**data, "label": data["image"].clone()}, RandCoarseNoised("image", noise_resolution=4)]
    )


class TestDataset:
    def test_slices_of_different_size_make_a_batch(self, dataset):
        batch = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
        assert batch.shape == (12, 3, 16, 16)
        assert type(batch) is torch.Tensor

    def test_items_are_copies(self, dataset):
        dataset[0]["image"].zero_()
        assert dataset[0]["image"].any()

    def test_kept_slices_are_read_again_unless_anything_has_changed(self, dataset, tmp_path):
        def cached(**settings):
            given = {"cache_dir": str(tmp_path / "cache")} | settings
            return SliceDataset(dataset.data, dataset.load, dataset.prepare, **given)

        first, kept = cached().items, cached().items
        assert len(list((tmp_path / "cache").iterdir())) == 1
        for one, other, plain in zip(first, kept, dataset.items, strict=True):
            assert one.case == other.case == plain.case
            assert one.healthy == other.healthy == plain.healthy
            assert torch.equal(other.image, plain.image)
            assert torch.equal(other.label, plain.label)
        assert cached(percentile=50.0).items
        with Image.open(dataset.data[0]["label"]) as label:
            Image.fromarray(np.asarray(label) * 0 + 1).save(dataset.data[0]["label"])
        assert not cached().items[0].healthy
        assert len(list((tmp_path / "cache").iterdir())) == 3

    def test_healthy_slices_are_found_from_the_labels(self, dataset):
        healthy = HealthySlices(dataset, noisy())
        assert [item.healthy for item in dataset.items] == [True, False, False, True] * 3
        assert len(healthy) == healthy.num_original == 6
        item = healthy[0]
        assert torch.equal(item["label"], dataset.items[0].image)
        assert not torch.equal(item["image"], item["label"])

    def test_healthy_slices_may_be_all_or_a_list_or_a_file(self, dataset, tmp_path):
        (tmp_path / "healthy.json").write_text(json.dumps(["p1_1", "p2_3"]))
        numbers = [
            len(HealthySlices(dataset, noisy(), healthy=value))
            for value in ("all", ["p0_0"], str(tmp_path / "healthy.json"))
        ]
        assert numbers == [12, 1, 2]

    def test_volumes_may_be_named_as_a_whole(self, tmp_path):
        cases = [write_volume(tmp_path / name) for name in "vw"]
        dataset = SliceDataset(cases, LoadSliced(["image", "label"]), lambda data: data)
        assert len(HealthySlices(dataset, noisy(), healthy=["v"])) == 4
        assert len(HealthySlices(dataset, noisy(), healthy=["w_s001"])) == 1
        assert len(HealthySlices(dataset, noisy())) == 4

    def test_further_healthy_images_need_no_label(self, dataset, tmp_path):
        for number in range(3):
            write_picture(tmp_path / "more" / f"h{number}", picture(50 + number))
        healthy = HealthySlices(dataset, noisy(), healthy_dir=str(tmp_path / "more"), load=LoadSliced("image"))
        assert len(healthy) == 9

    def test_no_healthy_slice_is_an_error_that_says_what_to_do(self, dataset):
        healthy = HealthySlices(dataset, noisy(), healthy=["nowhere"])
        with pytest.raises(NotEnoughCasesError, match=r"none of 12 slices is healthy.*healthy_dir.*'all'"):
            healthy.require_images()
        assert len(healthy) == 0

    @pytest.mark.parametrize("healthy", ["nowhere.json", [], {"a": 1}])
    def test_healthy_that_is_no_list_is_named(self, dataset, healthy):
        with pytest.raises(MissingDataError, match=r"healthy .*; accepted"):
            HealthySlices(dataset, noisy(), healthy=healthy)

    def test_fixed_noise_is_the_same_every_time_and_for_every_order(self, dataset):
        first, second = (HealthySlices(dataset, noisy(), fixed=True, seed=3) for _ in range(2))
        third = HealthySlices(dataset, noisy(), fixed=True, seed=4)
        assert torch.equal(first[2]["image"], first[2]["image"])
        assert torch.equal(first[2]["image"], second[2]["image"])
        assert not torch.equal(first[2]["image"], third[2]["image"])
        assert not torch.equal(first[1]["image"] - first[1]["label"], first[2]["image"] - first[2]["label"])

    def test_labels_without_foreground_are_an_error(self, dataset):
        dataset.require_foreground([0, 1])
        with pytest.raises(LabelError, match="the labels of all 2 training cases hold no foreground"):
            dataset.require_foreground([0, 3])


class TestPatients:
    cases = tuple({"image": f"{n}", "patient": f"p{n // 3}", "task": f"t{n // 9}"} for n in range(18))

    def patients(self, number, seed=0):
        return {self.cases[index]["patient"] for index in draw_patients(self.cases, number, seed)}

    def test_all_slices_of_a_patient_come_together(self):
        for number in range(7):
            indices = draw_patients(self.cases, number, 1)
            assert len(indices) == 3 * number
            assert len({(self.cases[n]["task"], self.cases[n]["patient"]) for n in indices}) == number

    def test_fewer_patients_are_among_more(self):
        for seed in range(5):
            drawn = [self.patients(number, seed) for number in range(7)]
            assert all(small <= large for small, large in pairwise(drawn))

    def test_seed_decides(self):
        assert self.patients(2, 1) == self.patients(2, 1)
        assert len({frozenset(self.patients(2, seed)) for seed in range(8)}) > 1

    def test_none_takes_everyone(self):
        assert draw_patients(self.cases, None, 0) == list(range(18))

    def test_fewer_than_asked_is_an_error(self):
        with pytest.raises(NotEnoughCasesError, match="num_labeled_patients is 7, but 6 patient"):
            draw_patients(self.cases, 7, 0)
        with pytest.raises(ConfigError, match="num_labeled_patients is -1"):
            draw_patients(self.cases, -1, 0)
