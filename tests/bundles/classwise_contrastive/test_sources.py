"""What ``classwise_contrastive`` promises of its sources: frames with masks, with their classes alone, of any size."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bundles.classwise_contrastive.frames import BUNDLE, draw_frame, epochs_of, write_frames


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
        assert "3 set(s) of classes, 12 frame(s) with a phase" in caplog.text

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
            "5 frame(s) with masks, 11 with their classes alone; 3 set(s) of classes, 2 frame(s) with a phase"
            in caplog.text
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
        assert f"{sum(int(name[1:]) % 3 > 0 for name in split)} frame(s) with a phase" in caplog.text
        assert np.isfinite(epochs_of(out)[0]["loss_contrastive"])

    def test_presence_file_without_its_columns(self, fail, tmp_path):
        (tmp_path / "bad.csv").write_text("frame,classes\na,1\n")
        assert "it needs image and classes" in str(fail(presence_file=tmp_path / "bad.csv"))
