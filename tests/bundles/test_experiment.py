"""The experiment of every bundle, as its config says it, without a run."""

import pytest
from monai.bundle import ConfigParser


@pytest.fixture
def read_grid(bundle, bundle_importable, tmp_path):
    """The grid of an experiment with what is laid over it."""

    def read(*names):
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{name}.json") for name in ("experiment", *names)])
        parser.update({"output_dir": str(tmp_path)})
        with bundle_importable(bundle):
            return parser.get_parsed_content("grid")

    return read


@pytest.fixture
def grid(configs, read_grid):
    if "experiment" not in configs:
        pytest.skip("a comparison of detectors trains nothing")
    return read_grid()


def test_overlays_of_an_experiment_change_options_that_exist(configs, read_grid):
    for name in [name for name in configs if name.startswith("experiment_")]:
        plain, laid = read_grid(), read_grid(name)
        assert (plain.plan.settings, plain.plan.sweep) != (laid.plan.settings, laid.plan.sweep)
        assert laid.reference in laid.plan.arms
        for run in laid.plan.runs():
            laid.bundle.require_options(run)


def test_every_run_sets_options_that_exist_and_differs_from_all_others(grid):
    runs = grid.plan.runs()
    for run in runs:
        grid.bundle.require_options(run)
    found = {tuple(grid.bundle.digests(run).items()) for run in runs}
    assert len(found) == len(runs) > 10


def test_arms_are_trained_for_equally_many_iterations(grid):
    """Epochs would be as long as the lists of cases, which differ between arms."""
    assert grid.plan.settings.get("iterations", grid.plan.settings.get("samples_per_epoch", 0)) > 0
    assert grid.reference in grid.plan.arms
