"""What ``classwise_contrastive`` promises beyond the contract: its methods, its sources of classes, its bad input."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "classwise_contrastive"
METHODS = ["unet", "simclr", "byol", "classification", "contrastive", "both"]
TERMS = {
    "unet": set(),
    "simclr": {"contrastive"},
    "byol": {"contrastive"},
    "classification": {"classification"},
    "contrastive": {"contrastive"},
    "both": {"contrastive", "classification"},
}


def draw_frame(index, size=(40, 34)):
    """A frame with a bright square, a dark one, both or none, and its mask."""
    rng = np.random.default_rng(index)
    picture, mask = rng.integers(90, 130, (size[1], size[0], 3)), np.zeros((size[1], size[0]), np.uint8)
    for number, shown in enumerate(((1, 1, 0, 1)[index % 4], (0, 1, 0, 1)[index % 4]), start=1):
        if shown:
            x, y = rng.integers(2, 16, 2)
            mask[y : y + 12, x : x + 12] = number
            picture[mask == number] = (220, 20)[number - 1]
    return picture.astype(np.uint8), mask


def write_frames(folder, count=16, *, listed=False, videos=4, size=None, masks=True):
    """A folder with a listing of frames of several videos."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    items = []
    for index in range(count):
        picture, mask = draw_frame(index, *([size(index)] if size else []))
        item = {"image": f"images/f{index}.png", "video": f"v{index * videos // count}"}
        Image.fromarray(picture).save(folder / item["image"])
        if masks:
            item["label"] = f"masks/f{index}.png"
            Image.fromarray(mask).save(folder / item["label"])
        if listed:
            item |= {"classes": sorted({0, *np.unique(mask).tolist()}), "phase": f"p{index % 2}"}
        items.append(item)
    listing = {"modality": {"0": "RGB"}, "labels": {"0": "background", "1": "bright", "2": "dark"}, "training": items}
    (folder / "dataset.json").write_text(json.dumps(listing))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("data") / "frames")


@pytest.fixture
def train(run_config, folder, tmp_path):
    """Trains with tiny settings; returns the output folder."""

    def start(output="out", names="train.json", **settings):
        out = tmp_path / output
        given = {"dataset_dir": folder, "output_dir": out, "model_dir": out / "m", "labeled_fraction": 0.4}
        given |= {"samples_per_epoch": 4, "batch_size": 4, "max_epochs": 1, "val_fraction": 0.25}
        run_config(BUNDLE, names, **(given | settings))
        return out

    return start


@pytest.fixture
def fail(fail_config, folder, tmp_path):
    """Trains with settings that must fail; returns the error after checking that no weights were left."""

    def start(**settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m", "batch_size": 4}
        error = fail_config(BUNDLE, "train.json", **(given | settings))
        assert not list(tmp_path.rglob("*.pt"))
        return error

    return start


def epochs_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))["epochs"]


class TestMethods:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_one_key(self, train, method):
        out = train(method=method, max_epochs=2)
        found = {key for key in epochs_of(out)[0] if key.startswith("loss_")}
        assert found == {"loss_segmentation"} | {f"loss_{name}" for name in TERMS[method]}
        assert (out / "m" / "signature_bank.npz").is_file()
        state = torch.load(out / "m" / "model.pt", weights_only=True)
        shipped = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
        assert set(state) == set(shipped), "a plain network, without heads"

    def test_two_steps_are_one_key(self, train):
        out = train(two_step=True, max_epochs=3, pretrain_epochs=1)
        epochs = epochs_of(out)
        assert [epoch["loss_segmentation"] > 0 for epoch in epochs] == [False, True, True]
        assert [epoch["loss_contrastive"] > 0 for epoch in epochs] == [True, False, False]
        state = torch.load(out / "checkpoint.pt", weights_only=True)["network"]
        best = torch.load(out / "m" / "model.pt", weights_only=True)
        encoder = [name for name in best if name.split(".")[0] in ("conv_0", "down_1", "down_4")]
        assert encoder
        assert all(torch.equal(state[f"network.{name}"], best[name]) for name in encoder), "frozen"

    def test_resumed_two_steps_equal_uninterrupted_ones(self, train):
        whole = train("whole", method="byol", max_epochs=3, pretrain_epochs=2)
        train("cut", method="byol", max_epochs=3, pretrain_epochs=2, **{"train#trainer#max_epochs": 1})
        cut = train("cut", method="byol", max_epochs=3, pretrain_epochs=2, resume=True)
        first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, cut))
        for member in ("network", "step"):
            torch.testing.assert_close(second[member], first[member], rtol=0, atol=0)
        assert epochs_of(whole) == epochs_of(cut)

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"method": "moco"}, "method is 'moco'; accepted are unet, simclr, byol"),
            ({"labeled_by": "clip"}, "labeled_by is 'clip'; accepted are frame and patient"),
            ({"labeled_fraction": 2}, "labeled_fraction is 2; accepted is above 0, up to 1"),
            ({"batch_size": 1}, "batch_size is 1; a pair needs two frames"),
            ({"temperature": 0}, "temperature 0, alpha 1.0, beta 1.0: accepted is a temperature above 0"),
            (
                {"encoder_layers": ["down_7"]},
                "encoder_layers names 'down_7', which the network does not have; it has: conv_0",
            ),
            (
                {"two_step": True, "max_epochs": 1},
                "pretrain_epochs is 1 of max_epochs 1; accepted is 1 to max_epochs - 1",
            ),
            ({"two_step": True, "method": "unet"}, "method 'unet' has nothing to train an encoder with"),
        ],
    )
    def test_choices_that_do_not_exist_are_refused(self, fail, settings, text):
        assert text in str(fail(**settings))

    def test_settings_are_those_that_the_page_names(self, bundle_importable):
        content = json.loads((BUNDLE / "configs" / "train.json").read_text())
        values = {name: content[name] for name in ("alpha", "beta", "temperature", "projection_size")}
        assert values == {"alpha": 1.0, "beta": 1.0, "temperature": 0.1, "projection_size": 128}
        with bundle_importable(BUNDLE):
            network = ConfigParser(content).get_parsed_content("network_def")
        assert len(content["encoder_layers"]) == 5
        assert all(network.get_submodule(name) for name in content["encoder_layers"])


class TestSources:
    def split(self, out):
        return json.loads((out / "split.json").read_text())

    def test_videos_are_never_torn_apart_but_for_their_masks(self, train):
        split = self.split(train(test_fraction=0.25))
        videos = {part: {int(name[1:]) // 4 for name in names.get("frames", ())} for part, names in split.items()}
        assert {part: len(names) for part, names in videos.items()} == {"train": 2, "unlabeled": 2, "val": 1, "test": 1}
        assert not videos["test"] & (videos["train"] | videos["val"] | videos["unlabeled"])
        assert not videos["val"] & (videos["train"] | videos["unlabeled"])
        assert len(split["train"]["frames"]) == 3

    def test_masks_that_are_not_used_matter_for_their_classes_alone(self, train, tmp_path):
        """Other masks of the same classes give the same weights."""
        first = train("first")
        data = write_frames(tmp_path / "other" / "frames")
        for name in self.split(first)["unlabeled"]["frames"]:
            values = np.unique(np.asarray(Image.open(data / "masks" / f"{name}.png")))
            noise = np.random.default_rng(0).choice(values, (34, 40)).astype(np.uint8)
            noise[0, : len(values)] = values
            Image.fromarray(noise).save(data / "masks" / f"{name}.png")
        second = train("second", dataset_dir=data)
        states = [torch.load(out / "m" / "model.pt", weights_only=True) for out in (first, second)]
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)

    def test_listed_classes_and_phases(self, train, tmp_path, caplog):
        data = write_frames(tmp_path / "listed", listed=True)
        with caplog.at_level("INFO"):
            train(dataset_dir=data)
        assert "3 sets of classes, 12 frames with a phase" in caplog.text

    def test_classes_and_phases_of_a_table_for_frames_of_another_folder(self, train, tmp_path, caplog):
        more = tmp_path / "video9"
        more.mkdir()
        with open(tmp_path / "classes.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "classes", "phase"])
            for index in range(20, 25):
                Image.fromarray(draw_frame(index)[0]).save(more / f"g{index}.jpg")
                if index != 23:
                    table.writerow([f"g{index}.jpg", "1;2", "3" if index < 22 else ""])
        with caplog.at_level("INFO"):
            out = train(unlabeled_dir=more, presence_file=tmp_path / "classes.csv")
        assert len(self.split(out)["unlabeled"]["video9"]) == 5
        assert (
            "1 of 12 frames without a mask do not tell their classes and are left out, the first is case 'g23'"
            in caplog.text
        )
        assert (
            "5 frames with masks, 11 with their classes alone; 3 sets of classes, 2 frames with a phase" in caplog.text
        )

    def test_layout_of_cholecseg8k(self, train, run_config, tmp_path):
        codes = np.array([50, 21, 31], np.uint8)
        for index in range(12):
            clip = tmp_path / "seg8k" / f"video0{index % 3}" / f"video0{index % 3}_00080"
            clip.mkdir(parents=True, exist_ok=True)
            picture, mask = draw_frame(index)
            Image.fromarray(picture).save(clip / f"frame_{index}_endo.png")
            gray = np.stack([codes[mask]] * 3, axis=-1)
            Image.fromarray(gray).save(clip / f"frame_{index}_endo_watershed_mask.png")
        out = train(dataset_dir=tmp_path / "seg8k", out_channels=13, test_fraction=0.3)
        split = self.split(out)
        assert {part: len(names.get("seg8k", ())) for part, names in split.items()} == {
            "train": 2, "unlabeled": 2, "val": 4, "test": 4,
        }  # fmt: skip
        run_config(
            BUNDLE, "evaluate.json", dataset_dir=tmp_path / "seg8k", split_file=out / "split.json", out_channels=13,
            model_dir=out / "m", output_dir=tmp_path / "e",
        )  # fmt: skip
        measured = json.loads((tmp_path / "e" / "metrics.json").read_text())["test_set"]["per_class"]
        shown = {name for name, figures in measured.items() if figures["iou"] is not None}
        assert shown == {"2", "5"}, "liver and grasper"

    def test_lists_from_outside(self, train, folder):
        """MONAI Label and federated clients hand over labeled frames alone."""
        cases = [
            {"image": str(folder / f"images/f{n}.png"), "label": str(folder / f"masks/f{n}.png")} for n in range(9)
        ]
        lists = {"train#dataset#data": cases[:7], "validate#dataset#data": cases[7:], "dataset_dir": None}
        out = train(**lists, unlabeled_dir=folder / "images", method="simclr")
        counts = {part: sum(map(len, names.values())) for part, names in self.split(out).items()}
        assert counts == {"train": 7, "unlabeled": 7, "val": 2}
        assert (out / "m" / "model.pt").is_file(), "given data, whatever dataset_dir says"


class TestBadInput:
    def split_names(self, out):
        """Training frames, with masks and without."""
        split = json.loads((out / "split.json").read_text())
        return [name for part in ("train", "unlabeled") for names in split[part].values() for name in names]

    # MONAI's inverse of an orientation remarks that the affine of a picture has three axes.
    @pytest.mark.filterwarnings("ignore:axcodes:UserWarning")
    def test_frames_of_different_size(self, train, run_config, tmp_path):
        sizes = [(40, 34), (64, 30), (37, 51)]
        data = write_frames(tmp_path / "sizes", size=lambda index: sizes[index % 3])
        out = train(dataset_dir=data)
        run_config(
            BUNDLE, "inference.json", dataset_dir=data / "images", model_dir=out / "m", output_dir=tmp_path / "i"
        )
        for index in range(6):
            with Image.open(tmp_path / "i" / f"f{index}" / f"f{index}_seg.png") as picture:
                assert picture.size == sizes[index % 3], "the size of the frame, not of the network"

    def test_set_of_classes_that_occurs_once(self, train, tmp_path, caplog):
        data = write_frames(tmp_path / "once")
        listing = json.loads((data / "dataset.json").read_text())
        for index, item in enumerate(listing["training"]):
            item["classes"] = [[1], [1], [1], [2]][min(index, 3)] if index < 4 else [1]
        (data / "dataset.json").write_text(json.dumps(listing))
        with caplog.at_level("WARNING"):
            out = train(dataset_dir=data, max_epochs=2, split_seed=1)
        assert all(np.isfinite(list(epoch.values())).all() for epoch in epochs_of(out))
        lonely = [record.getMessage() for record in caplog.records if "no other shows" in record.getMessage()]
        assert len(lonely) <= 1
        assert not lonely or lonely[0].startswith("1 of 12 training frames")

    def test_no_frame_has_a_partner(self, train, tmp_path, caplog):
        data = write_frames(tmp_path / "alone", 4)
        listing = json.loads((data / "dataset.json").read_text())
        for item, classes in zip(listing["training"], ([], [1], [2], [1, 2]), strict=True):
            item["classes"] = classes
        (data / "dataset.json").write_text(json.dumps(listing))
        with caplog.at_level("WARNING"):
            train(dataset_dir=data, split_seed=1)
        assert "no two of the 3 training frames show the same set of classes" in caplog.text
        split = json.loads((tmp_path / "out" / "split.json").read_text())
        assert sum(map(len, split["train"].values())) + sum(map(len, split["unlabeled"].values())) == 3

    def test_listed_class_beyond_those_of_the_network(self, fail, tmp_path):
        data = write_frames(tmp_path / "beyond", listed=True)
        error = fail(dataset_dir=data, out_channels=2)
        assert "is said to show class 2, but out_channels is 2" in str(error)

    def test_phases_missing_for_some_frames(self, train, tmp_path, caplog):
        data = write_frames(tmp_path / "phases", listed=True)
        listing = json.loads((data / "dataset.json").read_text())
        for item in listing["training"][::3]:
            del item["phase"]
        (data / "dataset.json").write_text(json.dumps(listing))
        with caplog.at_level("INFO"):
            out = train(dataset_dir=data)
        split = self.split_names(out)
        assert f"{sum(int(name[1:]) % 3 > 0 for name in split)} frames with a phase" in caplog.text
        assert np.isfinite(epochs_of(out)[0]["loss_contrastive"])

    def test_presence_file_without_its_columns(self, fail, tmp_path):
        (tmp_path / "bad.csv").write_text("frame,classes\na,1\n")
        assert "it needs image and classes" in str(fail(presence_file=tmp_path / "bad.csv"))


class TestEvaluation:
    def test_figures_and_measures_of_classes(self, train, run_config, folder, tmp_path):
        out = train(test_fraction=0.25)
        run_config(
            BUNDLE, "evaluate.json", dataset_dir=folder, split_file=out / "split.json", model_dir=out / "m",
            output_dir=tmp_path / "e",
        )  # fmt: skip
        for name in ("per_class", "overlays", "embeddings"):
            assert (tmp_path / "e" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        report = json.loads((tmp_path / "e" / "metrics.json").read_text())
        measures = report["test_set"]["per_class"]
        assert set(measures) == {"1", "2"}
        assert all(
            0 <= figures["iou"] <= figures["dsc"] <= 1 for figures in measures.values() if figures["iou"] is not None
        )
        embeddings = json.loads((tmp_path / "e" / "embeddings.json").read_text())
        assert embeddings["frames"] == 4
        assert {"before", "after", "layer"} <= set(embeddings)

    def test_training_brings_frames_of_the_same_classes_together(self, train, run_config, tmp_path):
        """Contrast alone, long enough: the nearest frame of the test set shows the same classes more often."""
        data = write_frames(tmp_path / "many" / "frames", 32)
        out = train(
            dataset_dir=data, method="contrastive", labeled_fraction=0.2, test_fraction=0.25, max_epochs=6,
            samples_per_epoch=48, batch_size=12, learning_rate=0.01, val_interval=6,
        )  # fmt: skip
        run_config(
            BUNDLE, "evaluate.json", dataset_dir=data, split_file=out / "split.json", model_dir=out / "m",
            output_dir=tmp_path / "e",
        )  # fmt: skip
        losses = [epoch["loss_contrastive"] for epoch in epochs_of(out)]
        assert losses[-1] < 0.8 * losses[0]
        found = json.loads((tmp_path / "e" / "embeddings.json").read_text())
        assert found["after"]["nearest"] > found["after"]["chance"] + 0.2


@pytest.mark.parametrize("settings", [{}, {"method": "byol"}], ids=["both", "byol"])
def test_two_processes_hold_the_same_networks(states_of_two_processes, folder, settings):
    """Each rank writes its state: gradients are averaged also where steps leave out parts of the network."""
    settings = {"labeled_fraction": 0.5, "samples_per_epoch": 16, "batch_size": 4, "val_fraction": 0.25} | settings
    (first,), (second,) = states_of_two_processes(
        BUNDLE, ["@headed_def"], with_buffers=False, dataset_dir=folder, max_epochs=2, **settings
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first


DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="MEDICAL_DATA_DIR names no folder of real scans")
def test_labeled_frames_of_one_operation_can_be_learned_by_heart(run_config, tmp_path):
    """Seven frames of one video: a smoke test on real pictures, not a figure."""
    listing = json.loads((DATA / "laparoscopy" / "dataset.json").read_text())
    items = listing["training"]
    for index, item in enumerate(items):
        item["patient"] = f"frame {index}"  # of one video: nothing else could be split
        item |= {key: str(DATA / "laparoscopy" / item[key]) for key in ("image", "label")}
    folder = tmp_path / "laparoscopy"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(listing))
    run_config(
        BUNDLE, "train.json", tiny=False, dataset_dir=folder, output_dir=tmp_path / "out", model_dir=tmp_path / "m",
        labeled_fraction=1, labeled_batch_fraction=1, roi_size=[64, 48], batch_size=6, samples_per_epoch=60,
        max_epochs=8, val_fraction=0.1, learning_rate=0.01, **{"network_def#features": [8, 8, 16, 16, 32, 8]},
    )  # fmt: skip
    losses = [epoch["loss_segmentation"] for epoch in epochs_of(tmp_path / "out")]
    assert losses[-1] < 0.75 * losses[0]
