import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from common.data.cases import decathlon_cases, decathlon_scans
from common.errors import ConfigError
from common.spectral.digest import preprocessing_digest
from common.transforms import CheckImaged, LoadScand, NormalizeByModalityd, ScaleByPercentilesd, normalize_intensity
from common.transforms.patients import landmarks_of, patient_landmarks
from common.transforms.percentiles import scale_between


def picture(seed, brightness):
    """Color channels ``(H, W, 3)`` with air of 2 around them."""
    pixels = np.random.default_rng(seed).integers(10, brightness, (12, 10 + seed, 3)).astype(np.uint8)
    pixels[:3] = 2
    return pixels


SLICES = {name: picture(seed, 80 + 40 * seed) for seed, name in enumerate(["a1", "a2", "a3", "b1"])}


@pytest.fixture
def make_folder(tmp_path):
    """Writes the slices of the patients a and b as a data set."""

    def make(modality="MRI", order=tuple(SLICES), tested=(), absent=()):
        items = []
        for name in order:
            for kind, pixels in (("images", SLICES[name]), ("masks", SLICES[name][..., 0] * 0)):
                (tmp_path / kind).mkdir(exist_ok=True)
                if name not in absent:
                    Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
            items.append({"image": f"images/{name}.png", "label": f"masks/{name}.png", "patient": name[0]})
        listing = {"modality": {"0": modality}, "labels": {"0": "background"}}
        listing["training"] = [item for item in items if item["image"][7:9] not in tested]
        listing["test"] = [item for item in items if item["image"][7:9] in tested]
        (tmp_path / "dataset.json").write_text(json.dumps(listing))
        return tmp_path

    return make


def prepare(case, *transforms):
    data = LoadScand("image")(dict(case))
    for transform in transforms or [normalize_intensity("image", "percentiles", percentiles=[5, 90])]:
        data = transform(data)
    return data["image"]


def expected(name, patient, limits=(5, 90)):
    """The slice ``(C, W, H)`` by numpy, scaled by the foreground of all slices of the patient."""
    scaled = []
    for channel in range(3):
        values = np.concatenate([SLICES[other][..., channel].ravel() for other in patient]).astype(float)
        low, high = np.percentile(values[values > values.min()], limits)
        scaled.append((SLICES[name][..., channel].T - low) / (high - low))
    return torch.from_numpy(np.stack(scaled)).float().clamp(min=0)


class TestPatients:
    @pytest.mark.parametrize(("name", "patient"), [("a1", ["a1", "a2", "a3"]), ("b1", ["b1"])])
    def test_percentiles_are_numpys_over_all_slices_of_the_patient(self, make_folder, name, patient):
        case = next(case for case in decathlon_cases(make_folder()) if case["case"] == name)
        assert_close(torch.as_tensor(prepare(case)).as_subclass(torch.Tensor), expected(name, patient))

    def test_order_of_the_listing_does_not_matter(self, make_folder):
        names = list(SLICES)
        before = {case["case"]: prepare(case) for case in decathlon_cases(make_folder())}
        random.Random(1).shuffle(names)
        after = {case["case"]: prepare(case) for case in decathlon_cases(make_folder(order=names))}
        assert list(before) != list(after)
        assert all(torch.equal(before[name], after[name]) for name in SLICES)

    @pytest.mark.parametrize("read", [decathlon_cases, decathlon_scans])
    def test_slices_of_another_list_count_in_training_as_in_inference(self, make_folder, read):
        case = read(make_folder(tested=["a2"]))[0]
        assert_close(torch.as_tensor(prepare(case)).as_subclass(torch.Tensor), expected("a1", ["a1", "a2", "a3"]))

    def test_slices_that_are_missing_or_cannot_be_read_are_left_out(self, make_folder):
        folder = make_folder(tested=["a3"], absent=["a3"])
        (folder / "images" / "a2.png").write_bytes(b"no picture")
        case = decathlon_cases(folder)[0]
        assert_close(torch.as_tensor(prepare(case)).as_subclass(torch.Tensor), expected("a1", ["a1"]))

    def test_changed_file_is_read_again(self, make_folder):
        folder = make_folder()
        case = decathlon_cases(folder)[0]
        before = prepare(case)
        Image.fromarray(picture(9, 250)[:, :11]).save(folder / "images" / "a2.png")
        assert not torch.equal(before, prepare(case))

    def test_files_are_read_once_for_all_slices(self, make_folder, monkeypatch):
        cases = decathlon_cases(make_folder())[:3]
        images = [LoadScand("image")(case) for case in cases]
        read = []
        load = LoadScand.__call__
        monkeypatch.setattr(LoadScand, "__call__", lambda self, data: read.append(data["image"]) or load(self, data))
        for data in images * 2:
            ScaleByPercentilesd("image", [3, 97])(data)
        assert sorted(read) == sorted(case["image"] for case in cases)

    def test_image_alone_and_volumes_stand_for_themselves(self, make_folder):
        case = decathlon_cases(make_folder())[0]
        del case["patient_images"]
        assert_close(torch.as_tensor(prepare(case)).as_subclass(torch.Tensor), expected("a1", ["a1"]))
        volume = torch.arange(48.0).reshape(1, 4, 4, 3)
        data = {"patient_images": ["absent.nii.gz"]}
        assert torch.equal(landmarks_of(data, volume, [0.1, 0.5]), patient_landmarks([volume], [0.1, 0.5]))

    @pytest.mark.parametrize(("modality", "listed"), [("MRI T1", True), ("RGB", False), ("CT", False), ("US", True)])
    def test_only_mr_has_images_of_the_patient(self, make_folder, modality, listed):
        assert [("patient_images" in case) for case in decathlon_cases(make_folder(modality))] == [listed] * 4


class TestSettings:
    def test_only_mr_is_scaled_by_percentiles(self):
        image = torch.linspace(0, 200, 48).reshape(3, 4, 4)
        way, usual = normalize_intensity("image", "percentiles"), NormalizeByModalityd("image")
        for modality in ("RGB", "CT"):
            data = {"image": image, "modality": modality}
            assert torch.equal(way(data)["image"], usual(data)["image"])
        scaled = ScaleByPercentilesd("image")({"image": image})["image"]
        assert torch.equal(way({"image": image, "modality": "MR"})["image"], scaled)
        assert not torch.equal(way({"image": image, "modality": "MR"})["image"], usual({"image": image})["image"])

    def test_digest_of_the_usual_way_stays_and_others_differ(self):
        usual = preprocessing_digest([NormalizeByModalityd("image", "MR", (-500, 500))])
        window = {"hounsfield_window": (-500, 500)}
        assert preprocessing_digest([normalize_intensity("image", **window, percentiles=(3, 4))]) == usual
        digests = {usual} | {
            preprocessing_digest([normalize_intensity("image", "percentiles", **window, percentiles=percentiles)])
            for percentiles in ([1, 99], [0.5, 99], [1, 99.5])
        }
        assert len(digests) == 4

    def test_channel_without_contrast_and_air_are_finite(self):
        image = torch.zeros(2, 3, 3)
        image[1, 0] = 7
        scaled = ScaleByPercentilesd("image")({"image": image})["image"]
        assert torch.equal(scaled, torch.zeros(2, 3, 3))
        limits = torch.tensor([[2.0, 6.0], [0.0, 7.0]])
        assert_close(scale_between(torch.tensor([[1.0, 4.0], [7.0, 0.0]]), limits), torch.tensor([[0, 0.5], [1, 0]]))

    @pytest.mark.parametrize("percentiles", [[99, 1], [1], [-1, 50], [0, 101], [5, 5]])
    def test_impossible_percentiles_are_named(self, percentiles):
        with pytest.raises(ConfigError, match=r"percentiles is \["):
            normalize_intensity("image", "percentiles", percentiles=percentiles)

    def test_unknown_way_is_named(self):
        with pytest.raises(ConfigError, match="normalization is 'nyul'; accepted are modality, percentiles"):
            normalize_intensity("image", "nyul")

    def test_slice_of_another_number_of_channels_is_told_by_its_check(self, make_folder):
        folder = make_folder()
        Image.fromarray(SLICES["a2"][..., 0]).save(folder / "images" / "a2.png")
        first, second = decathlon_cases(folder)[:2]
        assert_close(torch.as_tensor(prepare(first)).as_subclass(torch.Tensor), expected("a1", ["a1", "a3"]))
        with pytest.raises(ValueError, match="1 channels; this bundle takes 3"):
            prepare(second, CheckImaged("image", 2, 3))
