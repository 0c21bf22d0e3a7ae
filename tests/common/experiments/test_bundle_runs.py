"""What tells one run of a bundle from another, and how it is done: with a bundle whose work is writing small files."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import ConfigError, MissingDataError
from common.experiments.bundle_runs import Bundle, BundleJob
from common.experiments.plan import Run

TRAIN = {
    "bundle_root": "somewhere",
    "output_dir": "$@bundle_root + '/output'", "model_dir": "x", "pretrain_dir": "@output_dir",
    "dataset_dir": None, "max_epochs": 3, "seed": 0, "resume": False, "device": "cpu", "num_workers": 0, "rate": 0.1,
    "off": None, "initial_weights": None, "network_def": {"_target_": "BasicUNet", "features": [1, 2]},
    "inferer": {"_target_": "x"},
}  # fmt: skip
EVALUATE = {"output_dir": "x", "model_dir": "x", "dataset_dir": None, "split_file": None, "seed": 0, "overlap": 0.25}
OVERLAY = {"pair": "a", "network_def": {"_target_": "Other", "pair": "@pair"}}

WORK = """
import json
from pathlib import Path

def train(output_dir, **options):
    folder = Path(output_dir)
    with open(folder / "calls.jsonl", "a") as file:
        file.write(json.dumps(options) + "\\n")
    (folder / "checkpoint.pt").touch()
    (folder / "metrics.json").write_text(json.dumps({"epochs": [{"iteration": 7}, {"iteration": 14}]}))
    (folder / "split.json").write_text("{}")
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "model.pt").touch()
    if options["rate"] < 0:
        raise ValueError("rate below 0")

def evaluate(output_dir, **options):
    Path(output_dir).mkdir(exist_ok=True)
    measures = {"dsc": {"": 0.5, "p1": 0.25}, "ap": {"": 0.75}}
    groups = {name: {"dsc": {"": 0.5, "p1": 0.25}} for name in ("a", "b")}
    content = {"measures": measures, "measures_by_group": groups, "options": options}
    (Path(output_dir) / "metrics.json").write_text(json.dumps(content))
"""


def write_bundle(folder):
    """A bundle in a folder, whose module ``work`` stands in for training and evaluation."""
    taken = ("output_dir", "model_dir", "dataset_dir", "seed")
    train = {"_target_": "work.train"} | {
        key: f"@{key}" for key in (*taken, "resume", "rate", "max_epochs", "initial_weights")
    }
    evaluate = {"_target_": "work.evaluate"} | {key: f"@{key}" for key in (*taken, "split_file", "overlap")}
    configs = {"train": TRAIN | {"work": train, "run": ["@work"]}, "other": OVERLAY}
    configs["evaluate"] = EVALUATE | {"work": evaluate, "run": ["@work"]}
    (folder / "configs").mkdir(parents=True)
    for name, content in configs.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    (folder / "work.py").write_text(WORK)
    return str(folder)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Bundle(write_bundle(tmp_path / "bundle"))
    sys.modules.pop("work", None)


@pytest.fixture
def folder(tmp_path):
    def make(name, text="scan"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_text(text)
        return str(tmp_path / name)

    return make


def run(*overlays, **settings):
    return Run("a", "x", 0, overlays=overlays, settings={"seed": 0, **settings})


class TestOptions:
    def test_those_that_exist_pass(self, bundle):
        bundle.require_options(run(max_epochs=1, **{"network_def#features": [1], "inferer#mode": 2}))
        bundle.require_options(run("other.json", pair="b", **{"network_def#pair": "c"}))

    @pytest.mark.parametrize(
        ("option", "overlays", "words"),
        [
            ("max_epoch", [], "sets 'max_epoch', which is not an option of train.json; did you mean max_epochs?"),
            ("zzz", [], "sets 'zzz', which is not an option of train.json"),
            ("pair", [], "sets 'pair'"),
            ("zzz#a", [], "sets 'zzz#a'"),
            ("network_def#features", ["other.json"], "sets 'network_def#features'"),
        ],
    )
    def test_those_that_would_do_nothing_are_named(self, bundle, option, overlays, words):
        with pytest.raises(ConfigError) as caught:
            bundle.require_options(run(*overlays, **{option: 1}))
        assert str(caught.value).startswith(f"arm 'x' {words}")

    def test_overlay_that_does_not_exist_is_named(self, bundle):
        with pytest.raises(ConfigError, match=r"overlays names 'none\.json', but there is no such file in "):
            bundle.require_options(run("none.json"))


class TestDigests:
    def test_neither_place_nor_machine_counts(self, bundle, folder, tmp_path):
        one = bundle.digests(run(dataset_dir=folder("a"), num_workers=0))
        assert one == bundle.digests(run(dataset_dir=folder("b"), num_workers=2))
        assert one == Bundle(write_bundle(tmp_path / "moved")).digests(run(dataset_dir=str(tmp_path / "a")))
        assert one.keys() == {"settings", "data"}

    def test_content_of_data_counts(self, bundle, folder):
        one, other = (bundle.digests(run(dataset_dir=folder(text, text))) for text in ("a", "b"))
        assert one["settings"] == other["settings"]
        assert one["data"] != other["data"]

    @pytest.mark.parametrize(
        "changed",
        [
            run(rate=0.2), run(max_epochs=4), run(seed=1), run("other.json"), run(**{"network_def#features": [1, 3]}),
            run(off=0), run(off="none"),
        ],
    )  # fmt: skip
    def test_every_setting_counts(self, bundle, changed):
        assert bundle.digests(changed)["settings"] != bundle.digests(run())["settings"]

    @pytest.mark.parametrize("same", [run(rate=0.1), run(max_epochs=3.0), run(off=False), run(off=None)])
    def test_saying_a_default_changes_nothing(self, bundle, same):
        assert bundle.digests(same) == bundle.digests(run())

    @pytest.mark.parametrize(("name", "option"), [("train", "rate"), ("evaluate", "overlap")])
    def test_default_that_changed_makes_another_run(self, bundle, name, option):
        before, file = bundle.digests(run()), Path(bundle.root, "configs", f"{name}.json")
        content = json.loads(file.read_text()) | {"new": None, "also_new": False}
        file.write_text(json.dumps(content | {option: 0.5}))
        assert bundle.digests(run()) != before
        file.write_text(json.dumps(content))
        assert bundle.digests(run()) == before, "new options that are off keep what was done"

    def test_run_that_starts_from_another_is_told_by_that_one(self, bundle):
        first, other = run(), run(rate=0.2)
        found = [bundle.digests(replace(run(), after=after)) for after in (None, first, other, run(rate=0.1))]
        assert len({digests["settings"] for digests in found}) == 1
        assert found[0]["data"] != found[1]["data"] != found[2]["data"]
        assert found[3] == found[1]

    def test_data_that_do_not_exist_are_named(self, bundle):
        with pytest.raises(MissingDataError, match="dataset_dir names nowhere, which does not exist"):
            bundle.digests(run(dataset_dir="nowhere"))

    def test_runs_share_a_folder_where_they_differ_in_later_stages_alone(self, bundle, tmp_path):
        sharing = Bundle(bundle.root, shared={"pretrain_dir": ["rate"], "cache_dir": ["rate", "seed"]})
        first, second, third = (sharing.shared_folders(r, tmp_path) for r in (run(), run(rate=0.2), run(seed=1)))
        assert first == second
        assert first["pretrain_dir"] != third["pretrain_dir"]
        assert first["cache_dir"] == third["cache_dir"]
        assert first["pretrain_dir"].startswith(str(tmp_path / "pretrain_dir_"))


class TestJob:
    @pytest.fixture
    def job(self, bundle, folder, tmp_path):
        settings = {"dataset_dir": folder("data"), "rate": 0.3}
        return BundleJob(bundle, run(**settings), str(tmp_path / "run"), {"device": "cpu", "num_workers": 1})

    @staticmethod
    def calls(folder):
        return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]

    def test_trains_then_evaluates_and_gives_rows(self, job, tmp_path):
        assert not job.finished
        job()
        (trained,) = self.calls(tmp_path / "run")
        assert trained == {
            "model_dir": str(tmp_path / "run" / "models"), "dataset_dir": str(tmp_path / "data"), "seed": 0,
            "resume": False, "rate": 0.3, "max_epochs": 3, "initial_weights": None,
        }  # fmt: skip
        tested = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())["options"]
        assert tested == {
            "model_dir": str(tmp_path / "run" / "models"), "dataset_dir": str(tmp_path / "data"), "seed": 0,
            "split_file": str(tmp_path / "run" / "split.json"), "overlap": 0.25,
        }  # fmt: skip
        assert job.finished
        rows = job.rows()
        assert [(row["metric"], row["case"], row["value"]) for row in rows] == [
            ("dsc", "", 0.5), ("dsc", "p1", 0.25), ("ap", "", 0.75),
        ]  # fmt: skip
        assert {row["iterations"] for row in rows} == {14}
        assert all(0 <= row["seconds"] < 60 for row in rows)

    def test_run_on_several_data_sets_tells_that_of_each_case(self, bundle, tmp_path):
        job = BundleJob(bundle, replace(run(), dataset="together"), str(tmp_path / "run"), {})
        job()
        assert [(row["dataset"], row["metric"], row["case"], row["value"]) for row in job.rows()] == [
            ("a", "dsc", "", 0.5), ("a", "dsc", "p1", 0.25), ("b", "dsc", "", 0.5), ("b", "dsc", "p1", 0.25),
        ]  # fmt: skip

    def test_validation_part_may_be_measured(self, job, tmp_path):
        """It is another run than that of the test part."""
        evaluate = Path(job.bundle.root) / "configs" / "evaluate.json"
        content = json.loads(evaluate.read_text())
        content["work"]["split_part"] = "@split_part"
        evaluate.write_text(json.dumps(content | {"split_part": "test"}))
        chosen = replace(job.bundle, split_part="val")
        assert chosen.digests(job.run)["settings"] != job.bundle.digests(job.run)["settings"]
        replace(job, bundle=chosen)()
        tested = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())["options"]
        assert tested["split_part"] == "val"

    def test_killed_run_goes_on_and_its_time_counts_up_to_the_checkpoint(self, job, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "attempt.json").write_text(json.dumps({"before": 1000.0}))
        (folder / "checkpoint.pt").touch()
        os.utime(folder / "attempt.json", (5000, 5000))
        os.utime(folder / "checkpoint.pt", (5200, 5200))
        job()
        assert self.calls(folder)[0]["resume"] is True
        assert 1200 <= job.rows()[0]["seconds"] < 1260

    def test_checkpoint_of_another_run_is_not_gone_on_from(self, bundle, tmp_path):
        """Another arm was stopped in a stage that both share."""
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "checkpoint.pt").touch()
        (tmp_path / "run").mkdir()
        sharing = Bundle(bundle.root, shared={"pretrain_dir": ["rate"]})
        job = BundleJob(sharing, run(), str(tmp_path / "run"), {"pretrain_dir": str(tmp_path / "shared")})
        job()
        job()
        assert [call["resume"] for call in self.calls(tmp_path / "run")] == [False, True]

    def test_results_without_measures_are_refused(self, job, tmp_path):
        job()
        (tmp_path / "run" / "evaluation" / "metrics.json").write_text("{}")
        with pytest.raises(MissingDataError, match=r"no measures in .*run, evaluation/metrics.json; label test cases"):
            job.rows()
        (tmp_path / "run" / "evaluation" / "metrics.json").unlink()
        with pytest.raises(MissingDataError, match=r"metrics.json cannot be read .*remove its folder and run again"):
            job.rows()
