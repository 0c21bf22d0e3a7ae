"""What ``double_mix`` promises of its ablations: each is one key or overlay, and one command compares them."""

import csv
import json

import pytest
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.runtime.model_settings import with_defaults
from tests.bundles.double_mix.organs import BUNDLE, listing

OVERLAYS = ["supervised", "cps", "dhc", "mean_teacher", "bcp"]
RIVALS = ["bcp"]
KINDS_OF_RUN = ("train", "evaluate", "inference")


KINDS = {
    "none": "ClassWeight",
    "DisW": "DistributionWeight",
    "DifW": "DifficultyWeight",
    "CDifW": "ConfidenceDifficultyWeight",
    "CDisW": "ConfidenceDistributionWeight",
}


class TestAblations:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_every_overlay_trains(self, train, name):
        out = train(name, max_epochs=1)
        terms = {key for key in listing(out)["epochs"][0] if key.startswith("loss_")}
        assert terms == {"loss_supervised"} | ({"loss_unsupervised"} if name != "supervised" else set())
        assert (out / "m" / "signature_bank.npz").is_file()
        assert (out / "class_weights.png").is_file() == (name not in RIVALS)

    @pytest.mark.usefixtures("blank_pictures")
    @pytest.mark.parametrize(
        ("key", "values"),
        [
            ("weight_a", ["none", "DisW", "DifW", "CDisW"]),
            ("weight_b", ["none", "DifW", "CDifW", "CDisW"]),
            ("mixing", ["none", "CutMix", "CutOut", "ClassMix"]),
            ("draw", ["bernoulli"]),
            ("cross_loss", ["dice_cross_entropy"]),
            ("mixed_loss", ["cross_entropy"]),
            ("weight_scale", ["maximum"]),
        ],
    )
    def test_every_choice_is_one_key(self, bundle_importable, tiny_settings, folder, tmp_path, key, values):
        """One iteration of the trainer that the config makes."""
        content = json.loads((BUNDLE / "configs" / "train.json").read_text())
        content["network_def"]["features"] = tiny_settings(content)["network_def#features"]
        tiny = {"roi_size": [16, 16, 16], "samples_per_epoch": 2, "max_epochs": 1, "cache_rate": 0.0, "device": "cpu"}
        tiny |= {"dataset_dir": str(folder), "output_dir": str(tmp_path)}
        for value in values:
            with bundle_importable(BUNDLE):
                parser = ConfigParser(content | tiny | {key: value})
                parser["train"]["handlers"] = []
                trainer = parser.get_parsed_content("train#trainer")
                trainer.run()
                kinds = [type(weight).__name__ for weight in parser.get_parsed_content("train#step").class_weights]
            assert all(term.isfinite() for term in trainer.state.output.values())
            assert ("mixed" in trainer.state.output) == (value != "none" or key != "mixing")
            expected = {"weight_a": "CDifW", "weight_b": "DisW"} | {key: value}
            assert kinds == [KINDS[expected[name]] for name in ("weight_a", "weight_b")]

    def test_every_rival_is_one_overlay(self, bundle_importable, tiny_settings, folder, tmp_path):
        """One iteration of the trainer that the config makes, and weights that evaluation and inference take."""
        found = {file.stem for file in (BUNDLE / "configs").glob("*.json") if '"rival": {' in file.read_text()}
        for name in sorted(found):
            files = {kind: [str(BUNDLE / "configs" / f"{part}.json") for part in (kind, name)] for kind in KINDS_OF_RUN}
            contents = {kind: ConfigParser.load_config_files(names) for kind, names in files.items()}
            tiny = {"roi_size": [16, 16, 16], "samples_per_epoch": 2, "max_epochs": 1, "cache_rate": 0.0}
            tiny |= {"dataset_dir": str(folder), "output_dir": str(tmp_path), "device": "cpu"}
            for content in contents.values():
                content["network_def"]["features"] = tiny_settings(content)["network_def#features"]
            # Other weights than those that are shipped.
            places = {"model_dir": str(tmp_path / "m")}
            with bundle_importable(BUNDLE):
                from scripts.common.double_mix.methods import RIVALS as accepted

                parser = ConfigParser(contents["train"] | tiny)
                parser["train"]["handlers"] = []
                trainer = parser.get_parsed_content("train#trainer")
                trainer.run()
                networks = [
                    ConfigParser(contents[kind] | places).get_parsed_content("network_def") for kind in KINDS_OF_RUN
                ]
            assert contents["train"]["rival"]["name"] == name
            assert all(term.isfinite() for term in trainer.state.output.values())
            for network in networks:
                network.load_state_dict(trainer.network.state_dict())
        assert found == accepted.keys()

    @pytest.mark.parametrize("key", ["weight_a", "weight_b", "mixing", "teaching", "teacher", "draw"])
    def test_choices_that_do_not_exist_are_refused(self, fail, key):
        error = fail(**{key: "nonsense"})
        assert "'nonsense'" in str(error)
        assert "accepted are" in str(error)

    def test_full_settings_are_those_of_the_source(self, bundle_importable):
        with bundle_importable(BUNDLE):
            configs = [json.loads((BUNDLE / "configs" / f"{name}.json").read_text()) for name in ("inference", "full")]
            parser = ConfigParser(configs[0] | configs[1])
            network, divisor, layers = (
                parser.get_parsed_content(k) for k in ("network_def", "divisor", "feature_layers")
            )
            assert type(network.network_a).__name__ == "VNet"
            layer = network.get_submodule(layers[0])
            assert type(layer).__name__ == "UpTransition"
            assert not parser.get_parsed_content("roi_size")[0] % divisor
            shapes = []
            with torch.no_grad(), layer.register_forward_hook(lambda _m, _i, output: shapes.append(output.shape)):
                logits = network.eval()(torch.zeros(1, 1, divisor, divisor, divisor))
            assert logits.shape == (1, 3, 16, 16, 16)
            assert shapes == [(1, 32, 16, 16, 16)]
        train = with_defaults(json.loads((BUNDLE / "configs" / "train.json").read_text()))
        values = {name: train[name] for name in ("roi_size", "learning_rate", "momentum", "weight_decay")}
        assert values == {"roi_size": [128, 128, 64], "learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 3e-5}

    def test_slides_are_one_overlay(self, bundle_importable, folder, tmp_path):
        """The form of the source's text, and what the default has in its place, as the trainer gets them."""
        names = ("min_weight", "weight_scale", "cross_loss", "mixed_loss", "mixed_weight", "mix_start", "theta_max")
        names += ("mix_labeled", "mix_direction")
        expected = {
            "train": (1.0, "mean", "cross_entropy", "dice_cross_entropy", 1.0, 0.2, 0.1, True, "both"),
            "slides": (0.0, "maximum", "dice_cross_entropy", "cross_entropy", 1.0, 0.0, 1.0, False, "into_labeled"),
        }
        content = {}
        for overlay, values in expected.items():
            content |= json.loads((BUNDLE / "configs" / f"{overlay}.json").read_text())
            with bundle_importable(BUNDLE):
                parser = ConfigParser(content | {"dataset_dir": str(folder), "output_dir": str(tmp_path)})
                step = parser.get_parsed_content("train#step")
                optimizer = type(parser.get_parsed_content("optimizer")).__name__
            assert optimizer == {"train": "AdamW", "slides": "SGD"}[overlay]
            found = {**step.limit.keywords, "theta_max": step.ramp.theta_max}
            found |= {name: getattr(step, name) for name in (*names[2:6], "mix_labeled")}
            found["mix_direction"] = step.pairs.mix_direction
            assert found == dict(zip(names, values, strict=True))


class TestCourse:
    """What a run tells of its course, of one run for all."""

    def test_weights_pseudo_labels_and_both_validations_are_in_the_log_and_drawn(self, train):
        out = train(max_epochs=2, pseudo_quality_interval=2, averaged="best", pictures=True)
        names = {f"weight_{network}/{index}" for network in "ab" for index in range(3)}
        epochs = listing(out)["epochs"]
        assert names <= set(epochs[0])
        assert epochs[0]["weight_b/0"] == 0 < epochs[0]["weight_b/1"] < epochs[0]["weight_b/2"] == 1
        assert epochs[0]["weight_a/1"] != epochs[1]["weight_a/1"]
        events = EventAccumulator(str(out)).Reload()
        assert names <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("weight_a/2")] == [1, 2]
        assert events.Scalars("weight_a/2")[1].value == pytest.approx(epochs[1]["weight_a/2"], rel=1e-6)
        for name in ("class_weights", "pseudo_labels"):
            assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "pseudo_dice" not in epochs[0]
        assert [event.value for event in events.Scalars("pseudo_dice")] == [pytest.approx(epochs[1]["pseudo_dice"])]
        for epoch in epochs:
            both = [epoch[f"val_soft_dice_{which}"] for which in ("average", "students")]
            assert epoch["val_soft_dice"] == max(both)


def test_arms_are_compared_by_one_command(run_config, folder, tmp_path):
    tiny = {"max_epochs": 1, "batch_size": 2, "samples_per_epoch": 2, "test_fraction": 0.4, "split_seed": 0}
    tiny |= {"network_def#features": [4, 8, 8, 8], "roi_size": [24, 24, 24]}
    run_config(
        BUNDLE, "experiment.json", dataset_dir=folder, output_dir=tmp_path, labeled={"labeled_fraction": [0.5]},
        seeds=[0], num_folds=0, overlays=[], settings=tiny,
        arms={"supervised": ["supervised.json"], "cps": ["cps.json"]},
    )  # fmt: skip
    with open(tmp_path / "methods.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "dsc" and row["case"]]
    tested = {arm: [row["case"] for row in rows if row["arm"] == arm] for arm in ("supervised", "cps")}
    assert len(tested["cps"]) == 4
    assert tested["cps"] == tested["supervised"], "the same cases for all"
