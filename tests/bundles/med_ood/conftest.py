"""Trainings of ``med_ood`` that tests of several files share."""

import pytest

from tests.bundles.med_ood.cells import BUNDLE, SHORT, SIZES, write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "tiles", SIZES)


@pytest.fixture(scope="session")
def trained(pictures, run_config, tmp_path_factory):
    """A whole run."""
    folder = tmp_path_factory.mktemp("trained")
    run_config(BUNDLE, "train.json", dataset_dir=pictures, output_dir=folder, model_dir=folder / "m", **SHORT)
    return folder


@pytest.fixture
def train(run_config, pictures, tmp_path):
    """Trains with short settings below ``tmp_path``; returns the output folder."""

    def start(run_id="run", *, names="train.json", output="out", **settings):
        folder = tmp_path / output
        given = {"dataset_dir": pictures, "output_dir": folder, "model_dir": folder / "m"} | SHORT
        run_config(BUNDLE, names, run_id, **(given | settings))
        return folder

    return start


@pytest.fixture
def fail(fail_config, tmp_path):
    """Trains on a folder, which must fail; returns the error."""

    def start(folder, **settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | SHORT
        return fail_config(BUNDLE, "train.json", **(given | settings))

    return start
