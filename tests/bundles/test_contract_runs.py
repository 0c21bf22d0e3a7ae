"""What every bundle must do when it runs: from anywhere, on any input, the same every time."""

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import verify_net_in_out
from monai.engines import SupervisedEvaluator
from sklearn.metrics import roc_auc_score

from common.runtime.knobs import plain_keys
from common.runtime.run_settings import MAY_CHANGE, first_difference
from tests.bundles.models import assert_same_models, tensors

WRITTEN = {"metrics.json", "checkpoint.pt", "split.json", "training.png", "models/model.pt"}
DETECTION = {"auc", "accuracy", "sensitivity", "specificity", "fpr_at_95_tpr"}


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def phantom_run(bundle, run_command, tmp_path_factory):
    """The command line, trained on phantoms, from the bundle's folder with relative paths."""
    output = tmp_path_factory.mktemp("phantoms")
    before = files_of(bundle / "models")
    result = run_command(bundle, "train.json", cwd=bundle, relative=True, output_dir=output, pictures=True)
    return {
        "output": output,
        "log": result.stdout,
        "errors": result.stderr,
        "before": before,
        "after": files_of(bundle / "models"),
    }


@pytest.fixture(scope="session")
def evaluated(bundle, configs, shape, trained, dataset, make_dataset, run_config, tmp_path_factory):
    """An evaluation with, where the bundle judges scans, two folders of strange ones."""
    folder = tmp_path_factory.mktemp("evaluated")

    def noise(index, image, label):
        return {"imagesTr": (image * 0 + np.random.default_rng(index).random(image.shape) ** 4, np.eye(4))}

    def brighter(index, image, label):
        return {"imagesTr": (image + 30 * label, np.eye(4))}

    strange = {
        "ood_dir": [
            str(make_dataset(folder / "noise", 2, **shape, edit=noise, start=20)),
            str(make_dataset(folder / "brighter", 3, **shape, edit=brighter, start=30)),
        ]
    }
    overrides = strange if "ood_dir" in configs["evaluate"] else {}
    run_config(
        bundle, "evaluate.json", pictures=True,
        # The weights bring the settings of their training along.
        dataset_dir=dataset, model_dir=trained.models, output_dir=folder / "out", tiny=False, **overrides,
    )  # fmt: skip
    return folder / "out"


class TestTraining:
    def test_phantom_run_writes_everything_below_the_output_folder(self, phantom_run, judges):
        files = {path.relative_to(phantom_run["output"]).as_posix() for path in phantom_run["output"].rglob("*")}
        assert files >= WRITTEN | ({"models/signature_bank.npz"} if judges else set())
        assert [name for name in files if "tfevents" in name and (phantom_run["output"] / name).stat().st_size > 100]
        assert not [name for name in files if Path(name).name.startswith(".")], "temporary files"
        drawn = [path.read_bytes() for path in phantom_run["output"].rglob("*.png") if "phantoms" not in path.parts]
        assert all(content.startswith(b"\x89PNG\r\n") for content in drawn)

    def test_phantom_run_leaves_shipped_weights_alone(self, phantom_run):
        assert phantom_run["before"] == phantom_run["after"]

    def test_phantom_run_says_so_in_one_line(self, phantom_run):
        assert sum("no dataset_dir given: using" in line for line in phantom_run["log"].splitlines()) == 1

    def test_log_in_a_pipe_has_one_line_an_epoch_and_no_bar(self, phantom_run):
        log = phantom_run["log"]
        assert not [character for character in log + phantom_run["errors"] if character in "\r\x1b\x08"]
        assert "%|" not in log + phantom_run["errors"]
        # A method of two stages trains twice.
        lines = [line.split(" INFO ", 1)[-1] for line in log.splitlines() if "epoch 1/1" in line.lower()]
        assert 1 <= len(lines) <= 2
        for line in lines:
            assert re.fullmatch(r"epoch 1/1: loss [\d.]+(, \w+ -?[\d.]+)+, [\d.]+ images/s, done in 0:\d\d:\d\d", line)
        assert "ignite" not in log
        # A tiny epoch makes no network to use.
        assert re.search(
            r"validation Dice 0\.\d+ after \d+ iterations: not yet a network to use; .*\n.*segment scans with", log
        )

    def test_metrics_record_every_epoch_and_the_best(self, trained):
        metrics = json.loads((trained.output / "metrics.json").read_text(encoding="utf-8"))
        assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]
        key = next(name for name in metrics["best"] if name.startswith("val_"))
        assert metrics["best"][key] == max(epoch[key] for epoch in metrics["epochs"])
        assert all(np.isfinite(epoch["train_loss"]) for epoch in metrics["epochs"])

    def test_split_names_every_case_once(self, trained, dataset):
        split = json.loads((trained.output / "split.json").read_text(encoding="utf-8"))
        named = [case for part in split.values() for case in part.get(dataset.name, ())]
        listed = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["training"]
        assert sorted(named) == sorted(Path(item["image"]).name.split(".")[0] for item in listed)
        assert split["train"]
        assert split["val"]
        assert json.loads((trained.models / "split.json").read_text(encoding="utf-8")) == split

    @pytest.mark.two_bundles
    def test_another_seed_gives_other_weights(self, bundle, trained, dataset, run_config, tmp_path):
        run_config(bundle, "train.json", dataset_dir=dataset, output_dir=tmp_path, model_dir=tmp_path / "m", seed=1)
        first, second = tensors(tmp_path / "m" / "model.pt"), tensors(trained.models / "model.pt")
        assert any(not torch.equal(first[name], second[name]) for name in first)

    @pytest.mark.tried(
        "Training that goes on",
        "Ctrl-C in the first validation, in every bundle",
        "`--resume true` goes on, and ends as if never stopped, bit for bit.",
    )
    def test_resumed_run_equals_an_uninterrupted_one(
        self, bundle, trained, dataset, two_epochs, run_config, tmp_path, monkeypatch
    ):
        settings = {"dataset_dir": dataset, "output_dir": tmp_path, "model_dir": tmp_path / "m"} | two_epochs
        with monkeypatch.context() as patch:
            # Ctrl-C in the first validation: what was trained until then must not be lost.
            patch.setattr(SupervisedEvaluator, "_iteration", lambda *_: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(
                KeyboardInterrupt, match=r"Ctrl-C: in epoch 1; .* --resume true goes on from .*point\.pt"
            ):
                run_config(bundle, "train.json", **settings)
        run_config(bundle, "train.json", **settings, resume=True)
        assert_same_models(tmp_path / "m", trained.models)
        first, second = (json.loads((path / "metrics.json").read_text()) for path in (tmp_path, trained.output))
        assert first == second
        # The best weights may be those of the first epoch; the checkpoint holds those of the last.
        first, second = (tensors(path / "checkpoint.pt")["network"] for path in (tmp_path, trained.output))
        torch.testing.assert_close(first, second, rtol=0, atol=0)


class TestSettingsOfARun:
    """What a run that is resumed may not change is found by the config itself."""

    def recorded(self, trained):
        return json.loads(tensors(trained.output / "checkpoint.pt")["progress"]["settings"])

    def test_every_key_is_compared_or_may_change(self, configs, trained):
        settings, keys = self.recorded(trained), plain_keys(configs["train"])
        assert {"learning_rate", "max_epochs", "seed", "divisor", "roi_size"} <= set(keys)
        # Nothing follows from the length of a training whose rate follows the loss.
        endless = {"max_epochs"} if configs["train"]["decline"] == "plateau" else set()
        assert sorted(set(keys) - settings.keys() - MAY_CHANGE) == sorted(endless)
        for key in set(keys) & settings.keys():
            name, before, now = first_difference(settings, settings | {key: "another"})
            assert (name, before, now) == (key, settings[key], "another")

    def test_objects_and_cases_are_compared(self, trained):
        settings = self.recorded(trained)
        parts = {"loss", "optimizer", "image_transforms#0", "train#dataset#data", "validate#dataset#data"}
        assert parts <= settings.keys()
        # Parts that learn at rates of their own are a list.
        groups = settings["optimizer"] if isinstance(settings["optimizer"], list) else [settings["optimizer"]]
        assert groups[0]["lr"] == settings["learning_rate"]
        assert any(key in settings for key in ("network", "network_def"))

    @pytest.mark.tried(
        "Training that goes on",
        "`--resume true` with another learning rate, modality or optimizer",
        "Refused with one line that names the setting and both values.",
    )
    def test_resumed_run_with_another_setting_is_refused(
        self, configs, trained, bundle, fail_config, dataset, tmp_path
    ):
        copied = shutil.copytree(trained.output, tmp_path / "copy")
        settings = {"dataset_dir": dataset, "output_dir": copied, "model_dir": copied / "weights", "max_epochs": 2}
        before = {name: (copied / name).read_bytes() for name in ("checkpoint.pt", "metrics.json", "weights/model.pt")}
        other = ("modality", "CT") if "modality" in configs["train"] else ("percentile", 98.0)
        config = configs["train"]
        # What is changed below a key of the top level is seen as well; SGD has no such setting.
        amsgrad = not config["optimizer"].get("amsgrad", False)
        nested = [("optimizer#amsgrad", amsgrad)] if config["optimizer_name"] != "sgd" else []
        for key, value in (("learning_rate", 0.5), other, ("weight_decay", 0.125), *nested):
            error = str(fail_config(bundle, "train.json", **settings, resume=True, **{key: value}))
            error = error.replace("optimizer#0#", "optimizer#")
            assert error.startswith(f"{key} is {json.dumps(value)}, but {copied}")
            assert "checkpoint.pt was trained with " in error
            if key in config:
                assert f"was trained with {json.dumps(config[key])};" in error
        assert before == {name: (copied / name).read_bytes() for name in before}


def test_keys_that_may_change_exist(all_bundles):
    """A key that was renamed would be compared without anybody having decided so."""
    found = set()
    for bundle in all_bundles:
        found |= json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8")).keys()
    assert sorted(MAY_CHANGE - found) == []


class TestEvaluation:
    def test_means_follow_from_the_cases(self, evaluated, dataset):
        report = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))["segmentation"]
        assert set(report) >= {"dsc", "hd95", "assd", "ece", "mce"}
        for figures in report.values():
            assert set(figures) >= {"mean", "std", "per_class", "per_case"}
            values = [value for value in figures["per_case"].values() if value is not None]
            assert len(figures["per_case"]) == 4
            if values:
                assert figures["mean"] == pytest.approx(np.mean(values))
                assert figures["std"] == pytest.approx(np.std(values))
        assert set(report["dsc"]["per_class"]) == {"1"}

    def test_table_agrees_with_the_figures(self, evaluated):
        report = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))["segmentation"]["dsc"]
        rows = [row for row in read_csv(evaluated / "cases.csv") if row["in_distribution"] == "True"]
        assert {row["case"]: float(row["dsc"]) for row in rows} == pytest.approx(report["per_case"])

    def test_detection_follows_from_the_table(self, evaluated, judges):
        if not judges:
            pytest.skip("this bundle gives no verdict")
        detection = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))["detection"]
        rows = read_csv(evaluated / "cases.csv")
        assert set(detection) == {"noise", "brighter", "pooled", "worst"}
        for folder in ("noise", "brighter", "pooled"):
            chosen = [row for row in rows if row["in_distribution"] == "True" or folder in (row["group"], "pooled")]
            truth = [row["in_distribution"] == "False" for row in chosen]
            scores = [float(row["oodm"]) for row in chosen]
            called = [row["is_ood"] == "True" for row in chosen]
            assert set(detection[folder]) == DETECTION
            assert detection[folder]["auc"] == pytest.approx(roc_auc_score(truth, scores))
            assert detection[folder]["accuracy"] == pytest.approx(np.mean(np.equal(called, truth)))
        worst = detection[detection["worst"]["folder"]]
        assert worst["auc"] == min(detection["noise"]["auc"], detection["brighter"]["auc"]) == detection["worst"]["auc"]

    def test_figures_are_pictures(self, evaluated, judges):
        names = {"reliability.png"} | ({"roc.png", "oodm.png", "signatures.png"} if judges else set())
        pictures = {path.name: path.read_bytes() for path in evaluated.glob("*.png")}
        assert set(pictures) >= names
        assert all(content.startswith(b"\x89PNG\r\n") for content in pictures.values())

    def test_evaluation_laid_over_training_gives_the_same(
        self, bundle, evaluated, trained, dataset, run_config, tmp_path
    ):
        """Federated clients lay ``evaluate.json`` over ``train.json``."""
        run_config(
            bundle,
            ["train.json", "evaluate.json"],
            tiny=False,
            dataset_dir=dataset,
            model_dir=trained.models,
            output_dir=tmp_path,
        )
        first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, evaluated))
        assert first["segmentation"] == second["segmentation"]


def test_shapes_fit_the_metadata(bundle, bundle_importable, monkeypatch):
    """MONAI's own check of the network's input and output, in the bundle's folder."""
    monkeypatch.chdir(bundle)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    with bundle_importable(bundle):
        verify_net_in_out("network_def", device="cpu", **files)
