"""What ``med_ood`` promises of its stages: each is skipped when done, and lost alone when killed."""

import shutil

import pytest
import torch

from tests.bundles.med_ood.cells import BUNDLE, SHORT, SIZES

STAGES = ("baseline", "mine", "combine")
STEPS = ("baseline", "mine", "select", "combine")
WRITTEN = ("ood_candidates.csv", "ood_selected.json", "proportion.json")


def assert_same_run(first, second):
    """Selection, weights and bank are equal bit for bit."""
    for name in (*WRITTEN, "m/signature_bank.npz"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("m/model.pt", "baseline/model.pt"):
        pair = [torch.load(folder / name, weights_only=True) for folder in (first, second)]
        torch.testing.assert_close(*pair, rtol=0, atol=0)
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


WITHIN = {
    # It draws what it has written the table of.
    "mine": """
from scripts.common.ood_mining.mine import CandidateMiner
CandidateMiner._draw = kill
""",
    "combine": """
from scripts.common.engine.course import Course

def train(self, *arguments, **settings):
    if "baseline" not in self.checkpoint.path:
        kill_in_second_epoch(self.trainer)
    plain(self, *arguments, **settings)

plain, Course.run = Course.run, train
""",
}
"""Where to kill within a stage; see ``run_killed``."""


@pytest.fixture
def killed(run_killed, pictures):
    """A training in a process that is killed; returns the stages that it began."""

    def start(folder, **settings):
        given = {"dataset_dir": pictures, "output_dir": folder, "model_dir": folder / "m"} | SHORT
        return run_killed(BUNDLE, **(given | settings))

    return start


class TestStages:
    def test_whole_run_writes_what_the_stages_say(self, trained):
        files = {path.relative_to(trained).as_posix() for path in trained.rglob("*")}
        own = {"metrics.json", "training.png", "checkpoint.pt"}
        assert files >= set(WRITTEN) | own | {f"baseline/{name}" for name in own} | {"baseline/model.pt", "m/model.pt"}
        assert len(list(trained.glob("events.*"))) == len(list((trained / "baseline").glob("events.*"))) == 1
        assert not list(trained.rglob("ood_patches")), "no patch is written unless asked for"

    def test_every_patch_has_a_candidate_with_a_score(self, trained, read_json, read_table):
        split = read_json(trained / "split.json")["train"]["tiles"]
        expected = sorted(
            (name, f"{x} {y}")
            for name in split
            for x in range(0, SIZES[int(name[-1])][0], 32)
            for y in range(0, SIZES[int(name[-1])][1], 32)
        )
        rows = read_table(trained / "ood_candidates.csv")
        assert sorted((row["case"], row["start"]) for row in rows) == expected
        assert all(0 <= float(row["score"]) <= 1 for row in rows)
        report = read_json(trained / "proportion.json")
        assert report["num_ood"] == sum(row["kept"] == "True" for row in rows)
        assert len(read_json(trained / "ood_selected.json")["patches"]) == report["num_selected"]
        assert [line["fraction"] for line in report["percentages"]] == [round(0.1 * n, 1) for n in range(11)]

    def test_stages_alone_give_the_same_as_the_whole(self, train, trained):
        for stage in STAGES:
            folder = train(stage)
        assert_same_run(folder, trained)

    def test_second_run_is_skipped_and_a_changed_option_is_not(self, train, caplog):
        caplog.set_level("INFO")
        train()
        caplog.clear()
        train()
        assert [step for step in STEPS if f"stage {step}: skipped" in caplog.text] == list(STEPS)
        caplog.clear()
        train(target_ratio=0.5)
        assert [step for step in STEPS if f"stage {step}: skipped" in caplog.text][:2] == ["baseline", "mine"]
        assert "stage select: starts (settings changed)" in caplog.text

    def test_baseline_of_another_device_is_taken(self, train, trained, caplog):
        """On a GPU it would have been trained in bfloat16."""
        caplog.set_level("INFO")
        train("mine", baseline_dir=trained, **{"train#trainer#amp": True})
        assert "stage mine: skipped" in caplog.text

    def test_killed_in_any_stage_it_ends_in_the_same_selection(self, killed, trained, tmp_path):
        """By SIGKILL as soon as a stage begins, one after the other; each start repeats that stage alone."""
        begun = [stage for kill_in in (*STAGES, "") for stage in killed(tmp_path, stage=kill_in)]
        assert begun == ["baseline", "baseline", "mine", "mine", "select", "combine", "combine"]
        assert_same_run(tmp_path, trained)

    @pytest.mark.parametrize(("where", "epochs"), [("mine", 1), ("combine", 2)])
    def test_killed_within_a_stage_it_repeats_that_alone(self, train, trained, killed, tmp_path, caplog, where, epochs):
        """When the table of candidates is written, but not yet the record; in the second epoch."""
        folder, whole = train("baseline" if where == "mine" else "run", max_epochs=epochs), trained
        if where == "combine":
            whole = shutil.copytree(folder, tmp_path / "whole")
            for name in ("stages/combine.json", "checkpoint.pt", "m/model.pt", "m/signature_bank.npz"):
                (folder / name).unlink()
        assert killed(folder, patch=WITHIN[where], max_epochs=epochs) == [where]
        written = "ood_candidates.csv" if where == "mine" else "checkpoint.pt"
        assert (folder / written).is_file()
        assert not (folder / "stages" / f"{where}.json").exists()
        caplog.set_level("INFO")
        caplog.clear()
        train(max_epochs=epochs)
        first = next(step for step in STEPS if f"stage {step}: starts" in caplog.text)
        assert first == where
        assert_same_run(folder, whole)
