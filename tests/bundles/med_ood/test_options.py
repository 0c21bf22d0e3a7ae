"""What ``med_ood`` promises beyond the contract: its options, and pictures of every kind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bundles.med_ood.cells import BUNDLE, SIZES, draw, write_pictures


class TestOptions:
    @pytest.mark.parametrize(
        "settings",
        [
            {"fill": "mean"},
            {"fill": "noise"},
            {"fill": "inpaint", "dilation": 2, "feather": 2, "ignore_removed": True, "empty_candidates": True},
            {"selection": "as_many", "ratio_unit": "pixels", "augment_ood": False, "equal_epochs": True},
            {"reduction": "per_class"},
            {"norm": "none", "learning_rate": 0.001},
            {"norm": "batch", "exact_fraction": True},
            {"count_padding": True},
        ],
        ids=str,
    )
    def test_every_option_trains(self, train, settings):
        folder = train(samples_per_epoch=8, **settings)
        assert (folder / "m" / "signature_bank.npz").is_file()
        if "norm" in settings:
            names = list(torch.load(folder / "m" / "model.pt", weights_only=True))
            assert any("running_mean" in name for name in names) == (settings["norm"] == "batch")
            assert any(".N." in name for name in names) == (settings["norm"] == "batch")

    def test_only_ood_trains_on_the_selected_alone(self, train, caplog, read_json):
        caplog.set_level("INFO")
        folder = train(only_ood=True, ood_fraction=1.0)
        number = len(read_json(folder / "ood_selected.json")["patches"])
        assert number
        assert f"training on 0 original and {number} mined patches" in caplog.text

    def test_selected_patches_are_written_when_asked_for(self, train, read_json):
        folder = train(save_patches=True, ood_fraction=1.0)
        written = sorted(path.name for path in (folder / "ood_patches").iterdir())
        patches = read_json(folder / "ood_selected.json")["patches"]
        assert written == sorted(f"{p['index']}_{p['case']}_{p['start'][0]}_{p['start'][1]}.png" for p in patches)
        with Image.open(folder / "ood_patches" / written[0]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (32, 32))

    def test_pictures_without_foreground_are_further_candidates(self, train, tmp_path, read_table):
        for index in range(2):
            (tmp_path / "healthy").mkdir(exist_ok=True)
            Image.fromarray(draw(index, (40, 32))[0]).save(tmp_path / "healthy" / f"h_{index}.png")
        rows = read_table(train(candidate_dir=tmp_path / "healthy") / "ood_candidates.csv")
        added = sorted((row["case"], row["start"]) for row in rows if row["kind"] == "candidate")
        assert added == [("h_0", "0 0"), ("h_0", "32 0"), ("h_1", "0 0"), ("h_1", "32 0")]

    def test_folds_keep_regions_together(self, train, tmp_path, read_json):
        regions = ["a", "a", "b", "b", "c", "d"]
        data = write_pictures(tmp_path / "regions", SIZES, region=regions)
        tested = []
        for fold in range(3):
            split = read_json(
                train("baseline", output=f"f{fold}", dataset_dir=data, num_folds=3, fold=fold, distance="nearest")
                / "split.json"
            )
            parts = {part: {regions[int(name[-1])] for name in named["regions"]} for part, named in split.items()}
            assert not parts["train"] & parts["val"]
            assert not parts["test"] & (parts["train"] | parts["val"])
            tested += sorted(parts["test"])
        assert sorted(tested) == ["a", "b", "c", "d"]

    def test_volumes_are_a_matter_of_one_overlay(self, run_config, make_dataset, tmp_path, read_table):
        data = make_dataset(tmp_path / "organ", 4)
        given = {"dataset_dir": data, "model_dir": tmp_path / "m", "roi_size": [32, 32, 32]}
        names = ["train.json", "volumes.json"]
        run_config(BUNDLE, names, output_dir=tmp_path / "out", learning_rate=0.01, samples_per_epoch=8, **given)
        assert {row["start"] for row in read_table(tmp_path / "out" / "ood_candidates.csv")} == {"0 0 0"}
        run_config(BUNDLE, ["inference.json", "volumes.json"], output_dir=tmp_path / "seg", **given)
        assert (tmp_path / "seg" / "case_0" / "case_0_seg.nii.gz").is_file()


class TestBadInput:
    def test_no_foreground_and_no_background(self, fail, tmp_path):
        nothing_to_tell = "training cases hold no background: there is nothing to tell apart"
        for name, value, said in (("foreground", 0, "hold no foreground"), ("background", 1, nothing_to_tell)):
            data = write_pictures(tmp_path / name, SIZES, labels=lambda index, label, value=value: label * 0 + value)
            error = fail(data)
            assert said in str(error)

    def test_palette_and_16_bit_labels_are_class_numbers(self, trained, train, tmp_path, read_json):
        def palette(label):
            picture = Image.fromarray(label, mode="P")
            picture.putpalette([0, 0, 0, 255, 40, 40] + [0] * 762)
            return picture

        folders = {
            "palette": write_pictures(tmp_path / "b" / "tiles", SIZES, save_label=palette),
            "16 bit": write_pictures(
                tmp_path / "c" / "tiles", SIZES, save_label=lambda label: Image.fromarray(label.astype(np.uint16))
            ),
        }
        counts = []
        for folder in (trained, *(train(output=name, dataset_dir=data) for name, data in folders.items())):
            report = read_json(folder / "proportion.json")
            counts.append((report["num_positive"], report["num_negative"], report["kept"]["mean_removed_foreground"]))
        assert counts[0] == counts[1] == counts[2]
        assert counts[0][0] > 0

    def test_color_labels_are_refused(self, fail, tmp_path):
        data = write_pictures(
            tmp_path / "data", SIZES, save_label=lambda label: Image.fromarray(np.stack([label] * 3, axis=-1))
        )
        assert "has 3 channels; save the numbers of the classes in one channel" in str(fail(data))

    def test_palette_picture_is_refused(self, fail, pictures, tmp_path):
        data = write_pictures(tmp_path / "data", SIZES)
        with Image.open(data / "images" / "tile_2.png") as picture:
            picture.convert("P").save(data / "images" / "tile_2.png")
        error = fail(data, in_channels=1)
        assert "case 'tile_" in str(error)
        assert "in_channels set and a network trained for it" in str(error) or "palette of colors" in str(error)
        for index in range(len(SIZES)):
            with Image.open(data / "images" / f"tile_{index}.png") as picture:
                picture.convert("P").save(data / "images" / f"tile_{index}.png")
        assert "the picture has a palette of colors; save it as RGB or as gray values" in str(fail(data, in_channels=1))

    def test_color_picture_to_a_network_of_one_channel(self, fail, pictures):
        error = fail(pictures, in_channels=1)
        assert "has 3 channels; this bundle takes 1" in str(error)
        assert "a color picture turned to gray" in str(error)

    def test_class_beyond_the_network(self, fail, tmp_path, read_json):
        data = write_pictures(tmp_path / "data", SIZES)
        listing = read_json(data / "dataset.json") | {"labels": {str(n): "x" for n in range(6)}}
        (data / "dataset.json").write_text(json.dumps(listing))
        with Image.open(data / "masks" / "tile_0.png") as picture:
            Image.fromarray(np.asarray(picture) * 5).save(data / "masks" / "tile_0.png")
        assert "label holds 5 but out_channels is 3" in str(fail(data))
