"""Short commands say the same to the runner as long ones do."""

import json
import sys

import pytest
import torch
from torch.testing import assert_close

import common.command.running as running
from common.__main__ import COMMANDS, USER_COMMANDS
from common.command.evaluate import evaluate_on
from common.command.export import export_network
from common.command.segment import segment_scans
from common.command.train import train_on
from common.errors import ConfigError, MissingDataError
from common.own_network.source import read_torchscript
from common.runtime.bundle_folders import find_bundle

ROOT = find_bundle()
TRAIN, INFERENCE, EVALUATE = (str(ROOT / "configs" / f"{name}.json") for name in ("train", "inference", "evaluate"))
SMALL = {"batch_size": 1, "max_epochs": 1, "iterations": 2, "network_def#features": [2, 2, 2]}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Settings of the runs that were started, none of which ran; the current folder is an empty one."""
    runs = []
    monkeypatch.setattr(running, "run", lambda **settings: runs.append(settings))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return runs


def settings_of(run):
    assert (run.pop("run_id"), run.pop("logging_file")) == ("run", False)
    return run


def test_segmentation_runs_inference_with_its_options(started):
    segment_scans("scan.nii.gz", output_dir="out", num_workers=2)
    places = {"dataset_dir": "scan.nii.gz", "output_dir": "out"}
    assert settings_of(started[0]) == {"config_file": [INFERENCE], "num_workers": 2} | places
    assert str(ROOT) in sys.path, "code of the bundle is found"


def test_evaluation_runs_its_config_with_its_options(started, caplog):
    caplog.set_level("INFO")
    evaluate_on(["a", "b"], output_dir="out", model_dir="m", ood_dir="c", split_file="s.json")
    options = {"model_dir": "m", "ood_dir": "c", "split_file": "s.json"}
    places = {"dataset_dir": ["a", "b"], "output_dir": "out"}
    assert settings_of(started[0]) == {"config_file": [EVALUATE]} | places | options
    assert caplog.messages == [f"bundle: {ROOT}", "to look at: out/report.html"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, {"planned": True, "minutes": 20.0}),
        ({"planned": False}, {"planned": False, "minutes": 20.0}),
        (SMALL | {"minutes": 1, "resume": True}, SMALL | {"planned": True, "minutes": 1, "resume": True}),
    ],
)
def test_training_runs_train_with_its_options(started, given, said):
    train_on(["a", "b"], output_dir="out", device="cpu", **given)
    places = {"dataset_dir": ["a", "b"], "output_dir": "out", "model_dir": "out/models", "device": "cpu"}
    assert settings_of(started[0]) == {"config_file": [TRAIN]} | places | said


def test_training_takes_the_tracking_of_the_runner_or_refuses_it_first(started, monkeypatch, tmp_path):
    train_on("a", output_dir="out", planned=False, tracking="other", experiment_name="x")
    assert (started[0]["tracking"], started[0]["experiment_name"]) == ("other", "x")
    monkeypatch.setattr("common.runtime.options.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"^--tracking mlflow needs the package mlflow, .*: pip install mlflow$"):
        train_on("a", output_dir="out", tracking="mlflow")
    assert list(tmp_path.iterdir()) == []


def test_network_is_exported_with_its_weights_from_any_folder(tmp_path, monkeypatch, bundle_importable):
    monkeypatch.chdir(tmp_path)
    with bundle_importable(ROOT):
        export_network(output_file="network.ts")
    network, extra = read_torchscript(tmp_path / "network.ts")
    state = torch.load(ROOT / "models" / "model.pt", weights_only=True)
    assert_close(dict(network.state_dict()), dict(state))
    assert "network_def" in json.loads(extra["inference.json"])


def test_network_without_weights_is_one_line(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"^there are no weights at .*/model.pt; give their folder as model_dir$"
    ):
        export_network(output_file="network.ts", model_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_dir": True}, ConfigError, "^no place is given for the results; name one with -o$"),
        ({"output_dir": "x", "bundle": "nobody"}, MissingDataError, "^there is no bundle 'nobody' in "),
        (
            {"output_dir": "x", "model_dri": "y"},
            ConfigError,
            "^unknown option --model_dri: .*; did you mean --model_dir",
        ),
        ({"output_dir": "x", "bundel": "y"}, ConfigError, "^unknown option --bundel: .*; did you mean --bundle"),
    ],
)
@pytest.mark.parametrize("command", [segment_scans, evaluate_on])
def test_wrong_options_are_one_line_before_anything_runs(started, command, options, error, message):
    with pytest.raises(error, match=message):
        command("scan.nii.gz", **options)
    assert started == []


def test_flag_that_is_a_text_is_one_line_before_anything_runs(started):
    with pytest.raises(ConfigError, match=r"^--resume false is a text, .*; write --resume False$"):
        segment_scans("scan.nii.gz", output_dir="x", resume="false")
    assert started == []


def test_commands_of_users_are_among_all():
    assert {
        "segment",
        "evaluate",
        "judge",
        "train",
        "plan",
        "zips",
        "verify",
        "sign",
        "install",
    } <= USER_COMMANDS.keys()
    assert USER_COMMANDS.items() <= COMMANDS.items()
