import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch import nn
from torch.testing import assert_close

from common.data.cases import decathlon_cases
from common.denoising import scale_slices, slice_cases
from common.denoising.loading import LoadSliced, ScaleByPercentiled
from common.errors import ConfigError, MissingDataError
from common.handlers import BestWeights
from common.runtime.weights import LANDMARKS_FILE
from common.spectral.digest import preprocessing_digest
from common.transforms import LandmarkLearner, LoadScand, MatchDecilesd, ScaleByPercentilesd, normalize_intensity
from common.transforms.deciles import LANDMARKS, landmarks, standard_landmarks
from common.transforms.standard import LEARNED_FILE, read_standard

PATIENTS, SLICES = 3, 4


def pixels(patient, number):
    """A slice ``(H, W, 3)`` of a scanner of its own, with air of 0."""
    drawn = np.random.default_rng([patient, number]).gamma(2.0, 12.0 + 8 * patient, (12, 10, 3)) + 5 + 10 * number
    drawn[:3] = 0
    return drawn.clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    items = []
    for patient in range(PATIENTS):
        for number in range(SLICES):
            name = f"images/p{patient}_{number}.png"
            Image.fromarray(pixels(patient, number)).save(tmp_path / name)
            items.append({"image": name, "label": name, "patient": patient})
    listing = {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": items}
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    return tmp_path


@pytest.fixture
def learn(tmp_path):
    """Learns from cases; returns the landmarks that were written."""

    def start(cases, **settings):
        given = {"normalization": "deciles", "modality": "MR", "output_dir": tmp_path, "save_dir": tmp_path / "m"}
        learner = LandmarkLearner(cases, **given | settings)
        learner.run()
        return read_standard(learner.file()) if Path(learner.file()).is_file() else None

    return start


def quantiles(patient):
    """The landmarks of a patient by numpy."""
    whole = np.concatenate([pixels(patient, number).reshape(-1, 3) for number in range(SLICES)]).astype(float)
    return np.stack([np.quantile(whole[:, channel][whole[:, channel] > 0], LANDMARKS) for channel in range(3)])


class TestLearning:
    def test_scale_is_the_mean_over_patients_by_numpy(self, folder, learn):
        scaled = [(q - q[:, :1]) / (q[:, -1:] - q[:, :1]) for q in map(quantiles, range(PATIENTS))]
        assert np.asarray(learn(decathlon_cases(folder))) == pytest.approx(np.mean(scaled, axis=0), abs=1e-5)

    def test_order_of_cases_does_not_matter(self, folder, learn):
        cases = decathlon_cases(folder)
        before = learn(cases)
        random.Random(0).shuffle(cases)
        assert learn(cases) == before

    def test_every_file_is_read_once(self, folder, learn, monkeypatch):
        read, load = [], LoadScand.__call__
        monkeypatch.setattr(LoadScand, "__call__", lambda self, data: read.append(data["image"]) or load(self, data))
        learn(decathlon_cases(folder))
        # The first slice of each patient tells that these are slices.
        assert len(read) == PATIENTS * SLICES + PATIENTS

    def test_other_modalities_are_not_learned_from(self, folder, learn):
        cases = decathlon_cases(folder)
        mr = learn(cases[:SLICES])
        others = [
            case | {"modality": modality} for case, modality in zip(cases[SLICES:], ["CT", "RGB"] * 4, strict=True)
        ]
        assert learn([*cases[:SLICES], *others]) == mr
        assert learn([*cases[:SLICES], *others], modality=None) != mr
        with pytest.raises(ConfigError, match="at least one training case of MR"):
            learn(others)

    @pytest.mark.parametrize("normalization", ["modality", "percentiles"])
    def test_other_normalizations_learn_nothing(self, folder, learn, normalization):
        assert learn(decathlon_cases(folder), normalization=normalization) is None

    def test_resumed_run_keeps_what_it_has_learned(self, folder, learn):
        cases = decathlon_cases(folder)
        first = learn(cases[:SLICES], resume="true")
        assert learn(cases, resume=True) == first
        assert learn(cases) != first

    def test_weights_keep_their_scale_until_others_are_written(self, folder, learn, tmp_path):
        cases = decathlon_cases(folder)
        best = BestWeights(nn.Linear(1, 1), tmp_path / "m", landmarks_file=tmp_path / LEARNED_FILE)
        kept = tmp_path / "m" / LANDMARKS_FILE
        scales = []
        for metric, chosen in [(0.5, cases[:SLICES]), (0.4, cases), (0.6, cases)]:
            learned = learn(chosen)
            best(SimpleNamespace(state=SimpleNamespace(metrics={"dice": metric}, key_metric_name="dice")))
            scales.append((read_standard(kept), learned))
        assert scales[0][0] == scales[0][1]
        assert scales[1][0] == scales[0][1] != scales[1][1], "no better weights were written"
        assert scales[2][0] == scales[2][1] == scales[1][1]

    def test_run_that_learns_nothing_aligns_to_what_lies_beside_the_weights(self, tmp_path):
        learner = LandmarkLearner([], output_dir=tmp_path, save_dir=tmp_path / "m", normalization="deciles")
        assert learner.file() == str(tmp_path / "m" / LANDMARKS_FILE)


class TestAligning:
    def test_scanner_does_not_matter_and_slices_keep_their_place_in_the_patient(self, folder, learn, tmp_path):
        cases = decathlon_cases(folder)
        learn(cases)
        align = normalize_intensity("image", "deciles", landmarks_file=tmp_path / LEARNED_FILE)
        standard = torch.tensor(read_standard(tmp_path / LEARNED_FILE))
        for patient in range(PATIENTS):
            members = cases[patient * SLICES : (patient + 1) * SLICES]
            images = [align(LoadScand("image")(case))["image"] for case in members]
            assert all(isinstance(image, MetaTensor) and image.meta["filename_or_obj"] for image in images)
            whole = torch.cat([torch.as_tensor(image).as_subclass(torch.Tensor).flatten(1) for image in images], dim=1)
            found = [np.quantile(channel[channel > 0].numpy(), LANDMARKS[1:-1]) for channel in whole]
            # The darkest of the foreground become 0, as air is, and are missing here.
            assert np.stack(found) == pytest.approx(standard[:, 1:-1].numpy(), abs=0.04)
            means = [float(image.mean()) for image in images]
            assert means == sorted(means)

    def test_other_landmarks_give_another_digest(self):
        standard = np.linspace(0, 1, len(LANDMARKS)).tolist()
        other = [*standard[:5], standard[5] + 0.01, *standard[6:]]
        assert len({preprocessing_digest([MatchDecilesd("image", [row])]) for row in (standard, other)}) == 2

    def test_missing_or_foreign_file_is_one_line(self, tmp_path):
        with pytest.raises(MissingDataError, match=r"normalization is 'deciles', but .*absent.json cannot be read"):
            normalize_intensity("image", "deciles", landmarks_file=str(tmp_path / "absent.json"))
        for text in ("{}", "no JSON", '{"landmarks": 3}', '{"landmarks": [["a"]]}', "[]"):
            (tmp_path / "foreign.json").write_text(text)
            with pytest.raises(MissingDataError, match="holds no landmarks of intensities"):
                read_standard(tmp_path / "foreign.json")


class TestSlicesOfDenoising:
    def test_usual_scale_and_its_digest_stay(self):
        usual = ScaleByPercentiled("image", 98.0, clear_border=True)
        assert preprocessing_digest(
            [scale_slices("image", percentile=98.0, clear_border=True)]
        ) == preprocessing_digest([usual])

    def test_slices_of_a_volume_share_its_landmarks(self, save_scan, tmp_path, learn):
        volume = np.random.default_rng(0).gamma(2.0, 30.0, (9, 8, 5)).astype(np.float32) * np.arange(5)
        file = str(save_scan(tmp_path / "scan", volume))
        case = {"image": file, "case": "scan"}
        standard = learn([case], modality=None)
        expected = standard_landmarks([landmarks(torch.from_numpy(volume)[None])])
        assert_close(torch.tensor(standard), expected.float(), atol=1e-5, rtol=0)
        align = scale_slices("image", "deciles", landmarks_file=tmp_path / LEARNED_FILE)
        planes = [align(LoadSliced("image")(plane))["image"] for plane in slice_cases([case])]
        whole = align(LoadScand("image")(case))["image"]
        assert len(planes) == 4
        assert_close(torch.stack([torch.as_tensor(plane) for plane in planes], dim=-1), torch.as_tensor(whole)[..., 1:])

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"normalization": "modality"}, "normalization is 'modality'; accepted are percentiles and deciles"),
            ({"normalization": "deciles", "clear_border": True}, "clear_border is true with normalization 'deciles'"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, settings, said):
        with pytest.raises(ConfigError, match=said):
            scale_slices("image", **settings)


def test_percentiles_are_landmarks_too():
    image = torch.from_numpy(np.random.default_rng(1).gamma(2.0, 30.0, (1, 9, 8, 5))).float()
    scaled = ScaleByPercentilesd("image", (1, 99))({"image": image})["image"]
    low, high = landmarks(image, (0.01, 0.99))[0]
    assert_close(scaled, ((image - low) / (high - low)).clamp(min=0))
