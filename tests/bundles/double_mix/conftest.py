"""Scans and trainings of ``double_mix`` that tests of several files share."""

from functools import partial

import pytest

from tests.bundles.double_mix.organs import BUNDLE, relabel


@pytest.fixture(scope="session")
def folder(make_dataset, tmp_path_factory):
    """Ten cases of two organs, the second in a corner of the first, a tenth of its size."""
    return relabel(tmp_path_factory.mktemp("data") / "organs", make_dataset, [0, 1, 2], count=10)


@pytest.fixture
def train(run_config, folder, tmp_path):
    """Trains on the ten cases with tiny settings; returns the output folder."""

    def start(*overlays, output="out", **settings):
        out = tmp_path / output
        names = ["train.json", *(f"{name}.json" for name in overlays)]
        given = {"dataset_dir": folder, "output_dir": out, "model_dir": out / "m", "labeled_fraction": 0.25}
        given |= {"samples_per_epoch": 2}
        run_config(BUNDLE, names, **(given | settings))
        return out

    return start


@pytest.fixture
def fail(fail_training, folder):
    """Trains with settings that must fail, see ``fail_training``."""
    return partial(fail_training, BUNDLE, folder)
