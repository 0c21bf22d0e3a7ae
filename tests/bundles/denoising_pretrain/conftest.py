"""Trainings of ``denoising_pretrain`` that tests of several files share."""

import pytest

from tests.bundles.denoising_pretrain.spots import BUNDLE, SHORT, write_slices


@pytest.fixture(scope="session")
def bundle_folder(repository):
    return repository / "bundles" / BUNDLE


@pytest.fixture(scope="session")
def slices(tmp_path_factory):
    return write_slices(tmp_path_factory.mktemp("data") / "spots")


@pytest.fixture(scope="session")
def trained(bundle_folder, slices, run_config, tmp_path_factory):
    """A whole run on two labeled patients."""
    folder = tmp_path_factory.mktemp("trained")
    given = SHORT | {"dataset_dir": slices, "output_dir": folder, "model_dir": folder / "m"}
    run_config(bundle_folder, "train.json", num_labeled_patients=2, **given)
    return folder


@pytest.fixture
def train(bundle_folder, slices, run_config, tmp_path):
    """Trains with short settings below ``tmp_path``; returns the output folder."""

    def start(run_id="run", *, names="train.json", output="out", **settings):
        folder = tmp_path / output
        given = {"dataset_dir": slices, "output_dir": folder, "model_dir": folder / "m", "num_labeled_patients": 2}
        run_config(bundle_folder, names, run_id, **(given | SHORT | settings))
        return folder

    return start


@pytest.fixture
def fail(bundle_folder, fail_config, tmp_path):
    """Trains on a folder, which must fail and leave no weights; returns the error."""

    def start(folder, run_id="run", **settings):
        given = {"dataset_dir": folder, "output_dir": tmp_path / "out", "model_dir": tmp_path / "m"} | SHORT
        error = fail_config(bundle_folder, "train.json", run_id, **(given | settings))
        assert not list(tmp_path.rglob("*.pt"))
        return error

    return start
