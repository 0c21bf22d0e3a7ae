"""The last lines of a training say whether its network is one to use."""

import json
import logging

import pytest

from common.runtime import training_end
from common.runtime.training_end import LOW_DICE, tell_end, warn_of_low_dice

NOT_YET = "validation Dice {} after 6 iterations: not yet a network to use; train longer ({})"


def history(dice):
    return {"best": {"val_mean_dice": dice, "iteration": 3}, "epochs": [{"iteration": 3}, {"iteration": 6}]}


@pytest.mark.parametrize(
    ("dice", "planned", "expected"),
    [
        (0.0551, {"minutes": 0.01, "iterations": 6}, NOT_YET.format("0.055", "--minutes 20 or more")),
        (0.0551, {"minutes": 20}, NOT_YET.format("0.055", "--minutes 40 or more") + " or on more labels"),
        (0.0, {"iterations": 6}, NOT_YET.format("0.000", "--iterations 60 or more") + " or on more labels"),
        (LOW_DICE - 0.001, {}, NOT_YET.format("0.499", "raise max_epochs") + " or on more labels"),
        (LOW_DICE, {"minutes": 1}, ""),
        (None, {"minutes": 1}, ""),
    ],
)
def test_low_dice_is_told_with_what_to_do(dice, planned, expected):
    assert warn_of_low_dice(history(dice), planned) == expected


def test_nothing_is_told_of_a_training_without_validation():
    assert warn_of_low_dice({}, {}) == warn_of_low_dice({"best": None, "epochs": [{"iteration": 6}]}, {}) == ""


@pytest.mark.parametrize(
    ("dice", "lines"),
    [
        (0.9, ["trained; segment scans with: trustseg segment SCANS -o RESULTS --model_dir m"]),
        (None, ["trained; segment scans with: trustseg segment SCANS -o RESULTS --model_dir m"]),
        (
            0.1,
            [
                NOT_YET.format("0.100", "--minutes 20 or more"),
                "to see what it does all the same; segment scans with: trustseg segment SCANS -o RESULTS --model_dir m",
            ],
        ),
    ],
)
def test_last_lines_go_by_what_the_training_recorded(tmp_path, repository, monkeypatch, caplog, dice, lines):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("sys.argv", ["trustseg", "train"])
    if dice is not None:
        (tmp_path / "metrics.json").write_text(json.dumps(history(dice)))
    plan = [{"setting": "minutes", "value": 5, "why": "given"}]
    tell_end(str(repository / "bundles" / "spectral_ood"), "m", str(tmp_path), plan)
    assert caplog.messages == lines
    # The other processes of a distributed training are silent.
    monkeypatch.setattr(training_end, "is_main_process", lambda: False)
    tell_end(str(repository / "bundles" / "spectral_ood"), "m", str(tmp_path), plan)
    assert caplog.messages == lines
