import hashlib
import json
import signal
import time

import pytest

from common.errors import MissingDataError
from common.runtime.stages import Stages, cases_digest, file_digest

NAMES = ("first", "second", "third")
# Every stage reads the output of the one before, writes its own in two steps, and waits in between for a while.
PROGRAM = """
import hashlib, sys, time
from pathlib import Path
from common.runtime.files import write_atomically
from common.runtime.stages import Stages, file_digest

folder, wait_in = Path(sys.argv[1]), sys.argv[2]
stages, before = Stages(folder / "stages"), folder / "input.txt"
before.write_text("1")


def work(name, source, target):
    def run():
        with open(folder / "worked.txt", "a") as file:
            file.write(name + chr(10))
        with write_atomically(target) as temporary:
            temporary.write_text(hashlib.sha256(source.read_bytes()).hexdigest())
            if name == wait_in:
                (folder / "waiting").touch()
                time.sleep(60)

    return run


for name in ("first", "second", "third"):
    target = folder / (name + ".txt")
    stages.run(name, work(name, before, target), inputs={"before": file_digest(before)}, outputs=[target])
    before = target
"""


@pytest.mark.tried(
    "Training that goes on",
    "A kill in the middle of a training of several stages",
    "Only the stage that was killed is repeated.",
)
def test_killed_stage_is_the_only_one_that_is_repeated(start_python, repository, tmp_path):
    """In each stage in turn, by SIGKILL in the middle of writing, which no program can catch."""

    def start(wait_in=""):
        command = ["-c", PROGRAM, str(tmp_path), wait_in]
        return start_python(command, cwd=tmp_path, env={"PYTHONPATH": str(repository)})

    for name in NAMES:
        started = start(name)
        deadline = time.monotonic() + 120
        while not (tmp_path / "waiting").exists():
            assert time.monotonic() < deadline
            assert started.process.is_alive()
            time.sleep(0.02)
        started.kill()
        assert started.wait().returncode == -signal.SIGKILL
        (tmp_path / "waiting").unlink()
        assert not (tmp_path / f"{name}.txt").exists(), "nothing half written under its name"
    assert start().wait().returncode == 0
    assert (tmp_path / "worked.txt").read_text().split() == [name for name in NAMES for _ in range(2)]
    before = b"1"
    for name in NAMES:
        before = hashlib.sha256(before).hexdigest().encode()
        assert (tmp_path / f"{name}.txt").read_bytes() == before


def test_changed_input_repeats_everything_that_follows_from_it(tmp_path):
    worked = []

    def run_all(first):
        before = tmp_path / "input.txt"
        before.write_text(first)
        for name in NAMES:
            target = tmp_path / f"{name}.txt"

            def work(name=name, source=before, target=target):
                worked.append(name)
                target.write_text(source.read_text() + name)

            Stages(tmp_path).run(name, work, inputs={"before": file_digest(before)}, outputs=[target])
            before = target

    run_all("1")
    run_all("1")
    assert worked == list(NAMES)
    run_all("2")
    assert worked == [*NAMES, *NAMES]


class TestStages:
    @pytest.fixture
    def stage(self, tmp_path, caplog):
        """Runs a stage that writes its input into a file; ``stage(...)`` returns whether it worked."""
        caplog.set_level("INFO")
        target = tmp_path / "out" / "result.txt"
        target.parent.mkdir()

        def run(**inputs):
            text = json.dumps(inputs)
            stages = Stages(tmp_path / "records")
            return stages.run("draw", lambda: target.write_text(text), inputs=inputs, outputs=[target])

        run.target, run.log, run.records = target, caplog, tmp_path / "records"
        return run

    def test_same_inputs_are_skipped_with_one_line(self, stage):
        assert stage(data="a", seed="1")
        stage.log.clear()
        assert not stage(data="a", seed="1")
        assert [record.getMessage() for record in stage.log.records] == [
            "stage draw: skipped, its output exists for the same inputs"
        ]

    @pytest.mark.parametrize(
        ("inputs", "reason"),
        [
            ({"data": "b", "seed": "1"}, "data changed"),
            ({"data": "a"}, "seed changed"),
            ({"data": "a", "seed": "1", "weights": "c"}, "weights changed"),
        ],
    )
    def test_changed_inputs_run_again_and_are_named(self, stage, inputs, reason):
        stage(data="a", seed="1")
        stage.log.clear()
        assert stage(**inputs)
        assert f"stage draw: starts ({reason})" in stage.log.text
        assert json.loads(stage.target.read_text()) == inputs
        assert not stage(**inputs)

    def test_missing_or_changed_output_runs_again(self, stage):
        stage(data="a")
        stage.target.unlink()
        assert stage(data="a")
        assert "result.txt is missing" in stage.log.text
        stage.target.write_text("by somebody else")
        assert stage(data="a")
        assert "result.txt is not the one that this stage wrote" in stage.log.text

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"inputs": 3, "outputs": {}}', "{}"])
    def test_unreadable_record_runs_again(self, stage, content):
        stage(data="a")
        (stage.records / "draw.json").write_text(content)
        assert stage(data="a")
        assert not stage(data="a")

    def test_failed_stage_leaves_no_record(self, tmp_path):
        def fail():
            raise RuntimeError("in the middle")

        stages = Stages(tmp_path)
        settings = {"inputs": {"data": "a"}, "outputs": [tmp_path / "result.txt"]}
        stages.run("draw", (tmp_path / "result.txt").touch, **settings)
        with pytest.raises(RuntimeError, match="in the middle"):
            stages.run("draw", fail, inputs={"data": "b"}, outputs=settings["outputs"])
        assert not (tmp_path / "draw.json").exists()
        assert stages.run("draw", (tmp_path / "result.txt").touch, **settings), "not even for the earlier inputs"

    def test_stage_that_writes_nothing_is_an_error(self, tmp_path):
        with pytest.raises(MissingDataError, match=r"stage draw has not written .*result\.txt; run it again"):
            Stages(tmp_path).run("draw", lambda: None, inputs={}, outputs=[tmp_path / "result.txt"])

    def test_folder_of_records_and_outputs_may_be_moved(self, tmp_path):
        for place in ("old", "new"):
            target = tmp_path / place / "result.txt"
            if place == "new":
                (tmp_path / "old").rename(tmp_path / "new")
            else:
                target.parent.mkdir()
            ran = Stages(tmp_path / place / "records").run("draw", target.touch, inputs={}, outputs=[target])
            assert ran == (place == "old")

    def test_later_stage_requires_the_earlier_one(self, stage, tmp_path):
        stages = Stages(tmp_path / "records")
        settings = {"inputs": {"data": "a"}, "outputs": [stage.target]}
        with pytest.raises(MissingDataError, match=r"stage draw is not done for these inputs \(no record"):
            stages.require("draw", **settings)
        stage(data="a")
        stages.require("draw", **settings)
        with pytest.raises(MissingDataError, match=r"data changed.*run it first, with the same options"):
            stages.require("draw", inputs={"data": "b"}, outputs=[stage.target])


class TestDigests:
    @pytest.fixture
    def cases(self, tmp_path):
        """Two cases, one of them a series of two files."""
        for name in ("a", "b", "c", "label"):
            (tmp_path / name).write_text(name)
        return [
            {"image": str(tmp_path / "a"), "label": str(tmp_path / "label"), "case": "a", "classes": [0, 1]},
            {"image": [str(tmp_path / "b"), str(tmp_path / "c")], "case": "b"},
        ]

    def test_place_of_the_files_does_not_matter(self, cases, tmp_path):
        before = cases_digest(cases)
        (tmp_path / "a").rename(tmp_path / "moved")
        assert cases_digest([cases[0] | {"image": str(tmp_path / "moved")}, cases[1]]) == before

    @pytest.mark.parametrize("change", ["a", "b", "c", "label"])
    def test_content_matters(self, cases, tmp_path, change):
        before = cases_digest(cases)
        (tmp_path / change).write_text("other")
        assert cases_digest(cases) != before

    def test_order_and_description_matter(self, cases):
        changed = [[cases[1], cases[0]], cases[:1], [cases[0] | {"classes": [0, 1, 2]}, cases[1]]]
        assert len({cases_digest(item) for item in [cases, *changed]}) == 4

    def test_folder_is_its_files(self, tmp_path):
        (tmp_path / "series").mkdir()
        (tmp_path / "series" / "1.dcm").write_text("one")
        before = file_digest(tmp_path / "series")
        (tmp_path / "series" / "2.dcm").write_text("two")
        assert file_digest(tmp_path / "series") != before
