"""Data sets of slices: which are healthy, and who is labeled."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureTyped
from PIL import Image

from common.denoising import (
    CoarseNoise,
    HealthySlices,
    LoadSliced,
    ScaleByPercentiled,
    SliceDataset,
    draw_patients,
    fit_size,
)
from common.errors import ConfigError, LabelError, MissingDataError, NotEnoughCasesError
from tests.common.slices import picture, write_picture, write_volume


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


class TestDataset:
    def test_slices_of_different_size_make_a_batch(self, dataset):
        batch = torch.stack([dataset[index]["image"] for index in range(len(dataset))])
        assert batch.shape == (12, 3, 16, 16)
        assert type(batch) is torch.Tensor

    def test_items_are_copies(self, dataset):
        dataset[0]["image"].zero_()
        assert dataset[0]["image"].any()

    def test_slices_are_judged_with_their_patient_and_alone(self, dataset):
        scales = [case["scale"][0] for case in dataset.judged.slices]
        assert scales == [93, 90, 93, 91, 93, 92, 93] * 3
        assert len(dataset.judged) == 21
        assert len(dataset) == 12

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
        healthy = HealthySlices(dataset)
        assert [item.healthy for item in dataset.items] == [True, False, False, True] * 3
        assert len(healthy) == healthy.num_original == 6
        found = [
            next(n for n, item in enumerate(dataset.items) if torch.equal(item.image, entry["image"]))
            for entry in healthy
        ]
        assert found == [0, 3, 4, 7, 8, 11]

    def test_healthy_slices_may_be_all_or_a_list_or_a_file(self, dataset, tmp_path):
        (tmp_path / "healthy.json").write_text(json.dumps(["p1_1", "p2_3"]))
        numbers = [
            len(HealthySlices(dataset, healthy=value)) for value in ("all", ["p0_0"], str(tmp_path / "healthy.json"))
        ]
        assert numbers == [12, 1, 2]

    def test_volumes_may_be_named_as_a_whole(self, tmp_path):
        cases = [write_volume(tmp_path / name) for name in "vw"]
        dataset = SliceDataset(cases, LoadSliced(["image", "label"]), lambda data: data)
        assert len(HealthySlices(dataset, healthy=["v"])) == 4
        assert len(HealthySlices(dataset, healthy=["w_s001"])) == 1
        assert len(HealthySlices(dataset)) == 4

    def test_further_healthy_images_need_no_label(self, dataset, tmp_path):
        for number in range(3):
            write_picture(tmp_path / "more" / f"h{number}", picture(50 + number))
        healthy = HealthySlices(dataset, healthy_dir=str(tmp_path / "more"), load=LoadSliced("image"))
        assert len(healthy) == 9

    def test_further_healthy_images_are_not_of_those_held_out(self, dataset, tmp_path):
        for number in range(3):
            write_picture(tmp_path / "more" / f"h{number}", picture(50 + number))
        (held_out,) = (path for path in (tmp_path / "more").iterdir() if path.name.startswith("h1"))
        split = SimpleNamespace(held_out=lambda: [{"image": str(held_out)}])
        settings = {"healthy_dir": str(tmp_path / "more"), "load": LoadSliced("image")}
        healthy = HealthySlices(dataset, split=split, **settings)
        assert [case["case"] for case in healthy.further] == ["h0", "h2"]

    def test_further_healthy_images_are_for_training_or_validation(self, dataset, tmp_path):
        for folder, count in (("more", 10), ("one", 1)):
            for number in range(count):
                write_picture(tmp_path / folder / f"h{number}", picture(50 + number))
        settings = {"healthy_dir": [str(tmp_path / "more"), str(tmp_path / "one")], "load": LoadSliced("image")}
        # Every label holds foreground, so the validation has no other healthy slice.
        settings |= {"healthy": ["nowhere"], "val_fraction": 0.2, "seed": 1}
        train, val = (HealthySlices(dataset, **settings, part=part) for part in ("train", "val"))
        val.require_images()
        names = [[(case["task"], case["case"]) for case in part.further] for part in (train, val)]
        assert [len(found) for found in names] == [9, 2]
        assert sorted(names[0] + names[1]) == sorted([("more", f"h{n}") for n in range(10)] + [("one", "h0")])
        # Nobody validates on the only image of a folder.
        assert ("one", "h0") in names[0]
        whole, none = (HealthySlices(dataset, **settings | {"val_fraction": 0.0}, part=p) for p in ("train", "val"))
        assert (len(whole), len(none)) == (11, 0)

    def test_no_healthy_slice_is_an_error_that_says_what_to_do(self, dataset):
        healthy = HealthySlices(dataset, healthy=["nowhere"])
        with pytest.raises(NotEnoughCasesError, match=r"none of 12 slices is healthy.*healthy_dir.*'all'"):
            healthy.require_images()
        assert len(healthy) == 0

    @pytest.mark.parametrize("healthy", ["nowhere.json", [], {"a": 1}])
    def test_healthy_that_is_no_list_is_named(self, dataset, healthy):
        with pytest.raises(MissingDataError, match=r"healthy .*; accepted"):
            HealthySlices(dataset, healthy=healthy)

    def test_noise_of_a_validation_is_drawn_once_for_each_slice(self, dataset):
        noise = CoarseNoise(noise_resolution=4)
        first, second = (HealthySlices(dataset, noise=noise, seed=3) for _ in range(2))
        other = HealthySlices(dataset, noise=noise, seed=4)
        assert torch.equal(first[2]["image"], first[2]["image"])
        # The order of the calls does not matter, nor which other slices there are.
        assert torch.equal(first[2]["image"], second[2]["image"])
        fewer = HealthySlices(dataset, noise=noise, seed=3, healthy=[str(dataset.items[0].case["case"])])
        assert torch.equal(fewer[0]["image"], first[0]["image"])
        assert not torch.equal(first[2]["image"], other[2]["image"])
        assert torch.equal(first[2]["label"], dataset.items[4].image)
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
