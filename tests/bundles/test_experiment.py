"""The experiment of every bundle, as its config says it, without a run."""

import pytest
from monai.bundle import ConfigParser


@pytest.fixture
def grid(bundle, configs, bundle_importable, tmp_path):
    if "experiment" not in configs:
        pytest.skip("a comparison of detectors trains nothing")
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "experiment.json"))
    parser.update({"output_dir": str(tmp_path)})
    with bundle_importable(bundle):
        yield parser.get_parsed_content("grid")


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
