"""What ``double_mix`` promises of runs: one survives a kill, and two processes train as one."""

import json
import signal

import pytest
import torch

from tests.bundles.double_mix.organs import BUNDLE, listing

KILLER = """
import os, signal
from ignite.engine import Events

class KillAt:
    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self, engine):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_run_killed_in_the_middle_of_an_epoch_ends_like_an_uninterrupted_one(run_config, run_command, folder, tmp_path):
    """SIGKILL in the second of three epochs, then ``--resume``: the same weights, averages, statistics and bank."""
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    overlay = tmp_path / "kill.json"
    overlay.write_text(json.dumps({"+train#handlers": [{"_target_": "killer.KillAt", "iteration": 3}]}))
    settings = {"dataset_dir": folder, "max_epochs": 3, "labeled_fraction": 0.25, "samples_per_epoch": 4}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_config(BUNDLE, "train.json", output_dir=whole, model_dir=whole / "m", **settings)
    settings |= {"cwd": tmp_path, "output_dir": cut, "model_dir": cut / "m", "env": {"PYTHONPATH": str(tmp_path)}}
    # Four samples in batches of two: the third iteration is the first of the second epoch.
    killed = run_command(BUNDLE, ["train.json", overlay], check=False, **settings)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(cut / "checkpoint.pt", weights_only=True)["progress"]["epoch"] == 1
    run_command(BUNDLE, "train.json", resume=True, **settings)
    first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, cut))
    for member in ("network", "ema", "weight_a", "weight_b"):
        torch.testing.assert_close(second[member], first[member], rtol=0, atol=0)
    assert int(first["ema"]["n_averaged"]) == 6
    assert first["schedule"] == second["schedule"]
    assert listing(whole) == listing(cut)
    best = [torch.load(path / "m" / "model.pt", weights_only=True) for path in (whole, cut)]
    torch.testing.assert_close(best[1], best[0], rtol=0, atol=0)
    assert (whole / "m" / "signature_bank.npz").read_bytes() == (cut / "m" / "signature_bank.npz").read_bytes()


@pytest.fixture(scope="module")
def cut(run_config, folder, tmp_path_factory):
    """The output folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("cut")
    settings = {"labeled_fraction": 0.25, "samples_per_epoch": 2, "max_epochs": 1}
    run_config(BUNDLE, "train.json", dataset_dir=folder, output_dir=out, model_dir=out / "m", **settings)
    return out


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"seed": 1}, "seed is 1"),
        ({"mixing": "CutMix"}, 'mixing is "CutMix"'),
        ({"labeled_fraction": 0.5}, "labeled_fraction is 0.5"),
        # The learning rate falls to 0 at the end of as many epochs.
        ({"max_epochs": 2}, "max_epochs is 2"),
        ({"mix_start": 0.5}, "mix_start is 0.5"),
    ],
)
def test_run_is_not_resumed_with_other_cases_or_settings(fail_config, folder, cut, other, text):
    settings = {"dataset_dir": folder, "output_dir": cut, "model_dir": cut / "m", "labeled_fraction": 0.25}
    settings |= {"samples_per_epoch": 2, "max_epochs": 1, "resume": True}
    error = str(fail_config(BUNDLE, "train.json", **(settings | other)))
    assert error.startswith(f"{text}, but {cut / 'checkpoint.pt'} was trained with ")


def test_two_processes_hold_the_same_networks_and_weights(states_of_two_processes, folder):
    """Each rank writes its state: gradients are averaged and statistics summed, so both must agree.

    Also the same running statistics: the main process's, which are sent before every validation.
    """
    members = ["@network_def", "@train#ema", "@train#weight_a", "@train#weight_b"]
    settings = {"dataset_dir": folder, "labeled_fraction": 0.5, "samples_per_epoch": 8, "network_def#norm": "batch"}
    first, second = states_of_two_processes(BUNDLE, members, **settings)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert all(first)
    for state in first[:2]:
        means = [value for name, value in state.items() if name.endswith("running_mean")]
        assert means
        assert all(mean.any() for mean in means)
