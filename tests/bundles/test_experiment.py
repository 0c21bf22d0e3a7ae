"""The experiment of every bundle, as its config says it, without a run."""

import pytest
from monai.bundle import ConfigParser


@pytest.fixture
def read_grid(bundle, bundle_importable, tmp_path):
    """The grid of an experiment with what is laid over it."""

    def read(*names, **options):
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{name}.json") for name in ("experiment", *names)])
        parser.update({"output_dir": str(tmp_path), **options})
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


def test_several_data_sets_are_trained_on_alone_together_and_in_chains(configs, read_grid, tmp_path):
    if "experiment_tasks" not in configs:
        pytest.skip("this bundle trains on one data set at a time")
    grid = read_grid("experiment_tasks", data_dir=str(tmp_path))
    names = list(grid.plan.datasets)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(name)
    runs = grid.plan.runs()
    for run in runs:
        grid.bundle.require_options(run)
    fold = [run for run in runs if run.fold == 0]
    steps = {arm: [run.settings["iterations"] for run in fold if run.arm == arm] for arm in grid.plan.arms}
    assert {sum(found) for found in steps.values()} == {sum(steps["alone"])}, "as many steps in all, whatever the arm"
    rates = {run.settings["learning_rate"] / (1 if run.after is None else 0.5) for run in runs}
    assert rates == {grid.plan.settings["learning_rate"]}, "fine-tuning takes half of it"
    chains = {arm: sum(run.after is not None for run in fold if run.arm == arm) for arm in steps}
    assert set(chains.values()) == {0, len(names) - 1}
    digests = {tuple(grid.bundle.digests(run).items()) for run in fold}
    assert len(digests) == len(fold) - 2, "each of two chains begins with a run alone"


def test_every_run_sets_options_that_exist_and_differs_from_all_others(grid):
    runs = grid.plan.runs()
    for run in runs:
        grid.bundle.require_options(run)
    # What a bundle does without any setting is an arm by name, whichever of the others it is.
    named = [run for run in runs if run.arm != "default"]
    found = {tuple(grid.bundle.digests(run).items()) for run in named}
    assert len(found) == len(named) > 10


def test_default_arm_is_the_training_as_it_is(grid, configs):
    found = [settings for part in grid.plan.arms.get("default", []) for settings in part.items()]
    for name, value in found:
        assert configs["train"][name] == value


def test_arms_are_trained_for_equally_many_iterations(grid):
    """Epochs would be as long as the lists of cases, which differ between arms."""
    assert grid.plan.settings.get("iterations", grid.plan.settings.get("samples_per_epoch", 0)) > 0
    assert grid.reference in grid.plan.arms
