"""Frames and trainings of ``classwise_contrastive`` that tests of several files share."""

from functools import partial

import pytest

from tests.bundles.classwise_contrastive.frames import BUNDLE, write_frames


@pytest.fixture(scope="session")
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
def fail(fail_training, folder):
    """Trains with settings that must fail, see ``fail_training``."""
    return partial(fail_training, BUNDLE, folder, batch_size=4)
