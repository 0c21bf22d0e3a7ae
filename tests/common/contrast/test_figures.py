"""Embeddings before and after a training, and the pictures of an evaluation."""

import json

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet
from PIL import Image

from common.contrast import FrameFigures
from common.contrast import figures as figures_module
from common.contrast.retrieval import nearest_agreement


def test_frames_of_the_same_patient_are_not_compared():
    embeddings = np.random.default_rng(0).normal(size=(12, 3))
    sets, patients = [((1,), (2,), (1, 2))[n % 3] for n in range(12)], ["a", "b", "c", "d"] * 3
    right, drawn = [], []
    for n in range(12):
        others = [m for m in range(12) if patients[m] != patients[n]]
        cosines = {m: embeddings[n] @ embeddings[m] / np.linalg.norm(embeddings[m]) for m in others}
        right.append(sets[max(cosines, key=cosines.get)] == sets[n])
        drawn.append(np.mean([sets[m] == sets[n] for m in others]))
    found = nearest_agreement(embeddings, sets, patients)
    assert found == pytest.approx({"nearest": np.mean(right), "chance": np.mean(drawn)})
    assert nearest_agreement(embeddings, sets, ["a"] * 12) == {"nearest": None, "chance": None}


def test_nearest_frame_by_the_angle():
    embeddings = np.array([[1.0, 0], [9, 0.5], [0, 1], [0.1, 7], [1, 1]])
    sets = [(1,), (1,), (2,), (2,), (1, 2)]
    assert nearest_agreement(embeddings, sets) == pytest.approx({"nearest": 0.8, "chance": 0.2})
    assert nearest_agreement(embeddings[:1], sets[:1]) == {"nearest": None, "chance": None}


@pytest.fixture
def make(tmp_path):
    torch.manual_seed(3)
    network = BasicUNet(spatial_dims=2, in_channels=3, out_channels=3, features=(4, 4, 4, 8, 8, 4), norm="batch")
    torch.save(network.state_dict(), tmp_path / "model.pt")

    def transform(case):
        generator = torch.Generator().manual_seed(case["number"])
        image = torch.rand(3, 32, 32, generator=generator)
        label = torch.zeros(2, 32, 32)
        for index in case["shows"]:
            label[index - 1, 4:20, 8 * index : 8 * index + 6] = 1
        return {"image": image, "label": label}

    def start(before=None, count=6, **settings):
        shows = [[], [1], [1, 2]]
        data = [
            {"case": str(n), "label": "-", "number": n, "shows": shows[n % 3], "in_distribution": True}
            for n in range(count)
        ]
        data += [{"case": "strange", "label": "-", "in_distribution": False}, {"case": "bare", "in_distribution": True}]
        return FrameFigures(
            network, str(tmp_path / "model.pt"), before, data, transform, "down_4", ["conv_0", "down_4"],
            torch.device("cpu"), str(tmp_path / "out"), **settings,
        )  # fmt: skip

    return start


def test_pictures_and_figures_are_written(make, tmp_path):
    report = make(pictures=3).run()
    for name in ("per_class", "overlays", "embeddings", "retrieval"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    written = json.loads((tmp_path / "out" / "embeddings.json").read_text())
    assert written["frames"] == 6
    assert written["after"] == report["after"] == written["scales"]["down_4"]["after"]
    assert list(written["scales"]) == ["conv_0", "down_4"]
    assert written["before"]["chance"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(("pictures", "expected"), [(3, "036"), (1, "0"), (9, "0123456")])
def test_overlays_are_of_frames_at_even_distances(make, monkeypatch, pictures, expected):
    drawn = []
    monkeypatch.setattr("common.contrast.figures.draw_overlays", lambda found, *_: drawn.extend(found))
    make(count=7, pictures=pictures).run()
    assert "".join(name for name, *_ in drawn) == expected


@pytest.mark.usefixtures("blank_pictures")
def test_before_is_a_network_that_has_learned_nothing_or_given_weights(make, tmp_path):
    figures = make()
    state = {name: value.clone() for name, value in figures.network.state_dict().items()}
    fresh = [figures._network(None).state_dict() for _ in range(2)]
    assert all(torch.equal(fresh[0][name], fresh[1][name]) for name in state)
    assert not torch.equal(fresh[0]["conv_0.conv_0.conv.weight"], state["conv_0.conv_0.conv.weight"])
    same = make(before=str(tmp_path / "model.pt")).run()
    assert same["before"] == same["after"]


def test_without_labeled_frames_there_is_nothing_to_draw(make, tmp_path):
    assert make(count=0).run() == {}
    assert not (tmp_path / "out").exists()


def test_retrieval_is_not_drawn_for_frames_of_one_patient(make, tmp_path, caplog):
    caplog.set_level("INFO")
    figures = make()
    figures.data = [{**case, "patient": "a"} for case in figures.data]
    assert figures.run()["scales"]["down_4"]["after"] == {"nearest": None, "chance": None}
    assert (tmp_path / "out" / "embeddings.png").is_file()
    assert not (tmp_path / "out" / "retrieval.png").exists()
    told = [record.getMessage() for record in caplog.records if "nearest frame" in record.getMessage()]
    assert told == []
    assert "all 6 are of one" in caplog.text


def test_classes_that_frames_show_have_their_names(make, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures_module, "draw_scatter", lambda _points, labels, _path: drawn.extend(labels))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "dataset.json").write_text(json.dumps({"labels": {"1": "grasper"}}))
    figures = make(count=3)
    figures.data = [{**case, "label": str(tmp_path / "labels" / "0.png")} for case in figures.data]
    figures.run()
    assert drawn == ["background", "grasper", "grasper, class 2"]
