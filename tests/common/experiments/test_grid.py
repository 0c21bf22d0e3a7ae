"""A whole experiment with a bundle that trains nothing: what is done once, what again, and what is left behind."""

import csv
import json

import pytest

from common.errors import ConfigError, RunsFailedError
from common.experiments.bundle_runs import Bundle
from common.experiments.grid import Grid, data_sets
from common.experiments.plan import Plan
from common.experiments.rows import COLUMNS
from tests.common.experiments.test_bundle_runs import write_bundle


@pytest.fixture
def experiment(tmp_path):
    """Makes an experiment of two arms and two seeds on a folder of data."""

    def make(place="out", **changes):
        root = tmp_path / "bundle"
        write_bundle(root) if not root.exists() else None
        data = tmp_path / "data"
        if not data.exists():
            data.mkdir()
            (data / "a.nii").write_text("scan")
        plan = {"datasets": data_sets(str(data)), "arms": {"slow": [], "fast": [{"rate": 0.5}]}, "seeds": [0, 1]}
        plan |= {key: value for key, value in changes.items() if key in Plan.__dataclass_fields__}
        bundle = Bundle(str(root), shared=changes.get("shared", {}))
        places = {"device": "cpu"}
        return Grid(
            bundle, Plan(**plan), name="trial", output_dir=str(tmp_path / place),
            results_dir=str(tmp_path / "committed"), reference="slow", places=places,
        )  # fmt: skip

    return make


@pytest.fixture
def calls(tmp_path):
    """How often something was trained below a folder."""
    return lambda place="out": sum(
        len(file.read_text().splitlines()) for file in (tmp_path / place).rglob("calls.jsonl")
    )


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_leaves_its_rows_once(experiment, calls, tmp_path):
    rows = experiment().run()
    assert rows == read(tmp_path / "out" / "trial.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["arm"], row["seed"], row["metric"], row["case"], row["value"]) for row in rows] == [
        (arm, seed, *measure)
        for arm in ("slow", "fast")
        for seed in "01"
        for measure in (("dsc", "", "0.5"), ("dsc", "p1", "0.25"), ("ap", "", "0.75"))
    ]
    assert {(row["experiment"], row["dataset"], row["iterations"]) for row in rows} == {("trial", "data", "14")}
    assert len({row["settings"] for row in rows}) == 4
    assert len({row["data"] for row in rows}) == 1
    assert calls() == 4
    assert (tmp_path / "out" / "report" / "tables.md").is_file()
    assert experiment().run() == rows
    assert calls() == 4, "what is done is not done again"


def test_committed_rows_are_reused_elsewhere(experiment, calls, tmp_path):
    """Another machine: other places of data and results, other names of arms, the same settings and content."""
    rows = experiment().run()
    (tmp_path / "committed").mkdir()
    (tmp_path / "out" / "trial.csv").rename(tmp_path / "committed" / "trial.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").rename(tmp_path / "elsewhere" / "scans")
    moved = data_sets(str(tmp_path / "elsewhere" / "scans"))
    again = experiment(
        "other", datasets=moved, arms={"slow": [], "faster": [{"rate": 0.5}], "new": [{"rate": 0.7}]}
    ).run()
    assert calls("other") == 2, "the new arm alone"
    assert {row["dataset"] for row in again} == {"scans"}
    renamed = [row | {"dataset": "scans", "arm": row["arm"].replace("fast", "faster")} for row in rows]
    assert again[: len(rows)] == renamed


def test_other_settings_or_data_are_another_run_in_place_of_the_old(experiment, calls, tmp_path):
    old = experiment().run()
    changed = experiment(settings={"max_epochs": 9}).run()
    assert calls() == 8
    assert [row["arm"] for row in changed] == [row["arm"] for row in old]
    assert not {row["settings"] for row in changed} & {row["settings"] for row in old}
    (tmp_path / "data" / "a.nii").write_text("another scan")
    other = experiment(settings={"max_epochs": 9}).run()
    assert calls() == 12
    assert read(tmp_path / "out" / "trial.csv") == other


def test_rows_of_runs_beyond_the_grid_are_kept(experiment, calls, tmp_path):
    rows = experiment().run()
    assert len(experiment(seeds=[0]).run()) == len(rows) / 2
    assert len(read(tmp_path / "out" / "trial.csv")) == len(rows)
    experiment().run()
    assert calls() == 4


def test_arms_that_say_the_same_are_one_run(experiment, calls):
    same = {"slow": [], "also slow": [{"rate": 0.1}]}
    rows = experiment(arms=same).run()
    assert calls() == 2
    values = {arm: [row["value"] for row in rows if row["arm"] == arm] for arm in same}
    assert values["slow"] == values["also slow"]
    assert experiment(arms=same).run() == rows


def test_failed_runs_are_told_at_the_end_and_done_again(experiment, calls, tmp_path):
    arms = {"slow": [], "broken": [{"rate": -1.0}]}
    with pytest.raises(
        RunsFailedError, match=r"2 of 4 run\(s\) failed, the others are complete; the first: .*broken.*below 0"
    ):
        experiment(arms=arms).run()
    assert {row["arm"] for row in read(tmp_path / "out" / "trial.csv")} == {"slow"}
    assert (tmp_path / "out" / "report" / "tables.md").is_file()
    with pytest.raises(RunsFailedError, match=r"2 of 2 run\(s\) failed"):
        experiment(arms=arms).run()
    resumed = [file for file in (tmp_path / "out").rglob("calls.jsonl") if "broken" in str(file)]
    assert [json.loads(line)["resume"] for line in resumed[0].read_text().splitlines()] == [False, True]


def test_report_is_made_without_the_reference_where_that_failed(experiment, tmp_path):
    with pytest.raises(RunsFailedError, match=r"2 of 4 run\(s\) failed"):
        experiment(arms={"slow": [{"rate": -1.0}], "fast": []}).run()
    assert "| fast |" in (tmp_path / "out" / "report" / "tables.md").read_text()


def test_run_that_ended_after_its_experiment_was_killed_is_taken_over(experiment, calls, tmp_path):
    rows = experiment().run()
    (tmp_path / "out" / "trial.csv").unlink()
    assert experiment().run() == rows
    assert calls() == 4


def test_runs_are_named_and_share_folders(experiment, tmp_path):
    experiment(shared={"pretrain_dir": ["rate"]}).run()
    names = {
        folder.name.rsplit("_", 2)[0] for folder in (tmp_path / "out").iterdir() if (folder / "run.json").is_file()
    }
    assert names == {f"data_{arm}_seed_{seed}" for arm in ("slow", "fast") for seed in (0, 1)}


@pytest.fixture
def two(tmp_path):
    """Two data sets, and arms that train on each, on both together, and on one after the other."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_text(name)
    arms = {"slow": [], "shared": [{"together": True}], "same": [{"together": True, "rate": 0.1}]}
    arms |= {"chained": [{"chain": ["b", "a"], "fine_tuned": {"rate": 0.05}}]}
    return {"datasets": {name: {"dataset_dir": str(tmp_path / name)} for name in "ab"}, "arms": arms, "seeds": [0]}


def test_rows_of_a_run_on_several_data_sets_are_paired_with_those_of_others(experiment, calls, two, tmp_path):
    rows = experiment(**two).run()
    assert [(row["dataset"], row["arm"]) for row in rows if (row["case"], row["metric"]) == ("p1", "dsc")] == [
        ("a", "slow"), ("a", "chained"), ("b", "slow"), ("b", "chained"),
        ("a", "shared"), ("b", "shared"), ("a", "same"), ("b", "same"),
    ]  # fmt: skip
    assert calls() == 4, "the first of a chain is a run alone"
    assert experiment(**two).run() == rows
    (tmp_path / "committed").mkdir()
    (tmp_path / "out" / "trial.csv").rename(tmp_path / "committed" / "trial.csv")
    assert experiment("other", **two).run() == rows
    assert calls("other") == 0


def test_chain_starts_from_the_weights_of_the_run_before(experiment, calls, two, tmp_path):
    rows = experiment(**two).run()
    (first,), (second,) = ((tmp_path / "out").glob(f"{name}_seed_0_*") for name in ("b_slow", "a_chained"))
    trained = json.loads((second / "calls.jsonl").read_text())
    assert (trained["initial_weights"], trained["rate"]) == (str(first / "models" / "model.pt"), 0.05)
    # Rows alone are no weights: what the missing run starts from is trained again, and nothing else.
    (tmp_path / "committed").mkdir()
    kept = [row for row in rows if not (row["dataset"] == "a" and row["arm"] == "chained")]
    with open(tmp_path / "committed" / "trial.csv", "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(kept)
    again = experiment("other", **two).run()
    assert {folder.name[:7] for folder in (tmp_path / "other").iterdir() if folder.is_dir()} == {
        "b_slow_", "a_chain", "report"
    }  # fmt: skip
    assert [{**row, "seconds": ""} for row in again] == [{**row, "seconds": ""} for row in rows]


def test_runs_after_one_that_failed_are_not_begun(experiment, two):
    two["arms"] = {"slow": [], "chained": [{"rate": -1.0, "chain": ["b", "a"]}]}
    with pytest.raises(RunsFailedError, match=r"2 of 4 run\(s\) failed, .*below 0"):
        experiment(**two).run()


def test_options_are_checked_before_anything_is_trained(experiment, calls):
    with pytest.raises(
        ConfigError, match=r"arm 'typo' sets 'rat', which is not an option of train.json; did you mean rate"
    ):
        experiment(arms={"slow": [], "typo": [{"rat": 1}]}).run()
    with pytest.raises(ConfigError, match="reference is 'slow'; accepted are the arms x"):
        experiment(arms={"x": []})
    assert calls() == 0


def test_data_sets_are_named_by_their_folders():
    assert data_sets() == {"phantoms": {}}
    assert data_sets("some/heads") == {"heads": {"dataset_dir": "some/heads"}}
    assert data_sets(["x/a", "b"]) == {"a+b": {"dataset_dir": ["x/a", "b"]}}
    assert data_sets(None, {"n": {"dataset_dir": "d", "out_channels": 4}}) == {
        "n": {"dataset_dir": "d", "out_channels": 4}
    }
    with pytest.raises(ConfigError, match="dataset_dir and datasets are both given; give one"):
        data_sets("a", {"b": {}})
