"""Gates with a bundle that trains nothing: what is run, what is run again, and what the tables and the page say."""

import csv
import json
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError, MissingDataError, RunsFailedError
from common.experiments.gates import read_gates, run_gates
from common.experiments.gates_page import GATE_COLUMNS, gain_at_end, gates_page
from tests.common.experiments.test_bundle_runs import write_bundle

WORK = """
import json
from pathlib import Path

def train(output_dir, **options):
    folder = Path(output_dir)
    with open(folder / "calls.jsonl", "a") as file:
        file.write(json.dumps(options) + "\\n")
    if options["rate"] < 0:
        raise ValueError("rate below 0")
    dices = [0.4, 0.6, 0.7, 0.8, 0.8, 0.805]
    epochs = [{"epoch": n, "iteration": 10 * n, "val_soft_dice": v} for n, v in enumerate(dices, start=1)]
    epochs.insert(1, {"epoch": 9, "iteration": 15})
    (folder / "metrics.json").write_text(json.dumps({"epochs": epochs}))
    lines = [f"{n},{10 * n},{30.0 * n}" for n in range(1, 7)]
    (folder / "times.csv").write_text("\\n".join(["epoch,iteration,seconds", *lines]) + "\\n")
    (folder / "split.json").write_text("{}")

def evaluate(output_dir, **options):
    Path(output_dir).mkdir(exist_ok=True)
    measures = {"dsc": {"": 0.5, "p1": 0.9, "p2": 0.8}}
    (Path(output_dir) / "metrics.json").write_text(json.dumps({"measures": measures}))
"""

GATE = {"dataset": ["heads"], "bundle": "tiny", "network": "a net", "resolution": "8 x 8", "metric": "dsc"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a bundle, data sets, and gates that can be changed; runs the command in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MEDICAL_DATA_DIR", str(tmp_path / "data"))
    write_bundle(tmp_path / "bundles" / "tiny")
    (tmp_path / "bundles" / "tiny" / "work.py").write_text(WORK)
    for name in ("heads", "hearts"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.nii").write_text(name)

    class Project:
        gates = {"one": GATE | {"floor": 0.85}, "both": GATE | {"dataset": ["heads", "hearts"], "metric": "dsc_pooled"}}

        def run(self, *names, **options):
            Path("bundles", "gates.json").write_text(json.dumps(self.gates))
            run_gates(*names, **options)

        def calls(self):
            """What was trained, in the order of the gates' names."""
            files = sorted(Path("output").rglob("calls.jsonl"))
            return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    yield Project()
    sys.modules.pop("work", None)


def table(name):
    with open(Path("docs", name), newline="") as file:
        return list(csv.DictReader(file))


def test_every_gate_leaves_a_row_and_a_curve(project, read_picture, caplog):
    caplog.set_level("INFO")
    project.run()
    one, both = table("gates.csv")
    assert list(one) == list(GATE_COLUMNS)
    assert {name: one[name] for name in GATE_COLUMNS[:10]} == {
        "dataset": "heads", "network": "a net", "resolution": "8 x 8", "iterations": "60", "seconds": "180.0",
        "metric": "dsc", "value": "0.85", "floor": "0.85", "gate": "one", "patients": "2",
    }  # fmt: skip
    assert (both["dataset"], both["metric"], both["value"], both["floor"]) == ("heads+hearts", "dsc_pooled", "0.5", "")
    curve = [row for row in table("gates_curves.csv") if row["gate"] == "one"]
    assert [(row["iterations"], row["seconds"], row["value"]) for row in curve][1:3] == [
        ("20", "60.0", "0.6"), ("30", "90.0", "0.7"),
    ]  # fmt: skip
    assert {row["metric"] for row in curve} == {"val_soft_dice"}
    assert len(curve) == 6, "an epoch without validation is no point"
    assert "gate one: dsc 0.850, floor 0.85 reached; converged (validation gained 0.0050" in caplog.text
    assert "gate both: dsc_pooled 0.500, no floor;" in caplog.text
    read_picture(Path("docs", "gates.png"))
    line = next(line for line in Path("docs", "gates.md").read_text().splitlines() if line.startswith("| heads |"))
    assert line == "| heads | a net | 8 x 8 | 60 | 3.0 | `dsc` | 2 | 0.850 | 0.85 | yes | yes (+0.005) |"
    folders = [call["dataset_dir"] for call in project.calls()]
    data = Path("data").absolute()
    assert folders == [[str(data / "heads"), str(data / "hearts")], str(data / "heads")]


@pytest.mark.usefixtures("blank_pictures")
def test_page_says_what_there_is_to_say_of_a_gate(project):
    project.gates = project.gates | {"one": project.gates["one"] | {"note": "rises slowly."}}
    project.run()
    text = Path("docs", "gates.md").read_text()
    assert "\n- `one`: rises slowly.\n\n![" in text
    assert "- `both`" not in text
    project.gates = project.gates | {"one": project.gates["one"] | {"note": ""}}
    project.run()
    assert len(project.calls()) == 2, "a note is no reason to train again"
    assert "- `one`" not in Path("docs", "gates.md").read_text()


def test_done_gates_are_not_run_again_and_page_and_figure_stay_the_same(project):
    project.run()
    before = {path.name: path.read_bytes() for path in Path("docs").iterdir()}
    project.run()
    project.run("one", data_dir="data", page_only=True)
    assert len(project.calls()) == 2
    assert {path.name: path.read_bytes() for path in Path("docs").iterdir()} == before


@pytest.mark.usefixtures("blank_pictures")
def test_what_ended_without_a_row_gets_it(project):
    """The command was killed between the end of a run and its row; the row of another gate stays."""
    project.run()
    rows = table("gates.csv")
    for name in ("gates.csv", "gates_curves.csv"):
        lines = Path("docs", name).read_text().splitlines()
        Path("docs", name).write_text("\n".join([lines[0], *(line for line in lines if "both" in line)]) + "\n")
    project.run("one")
    assert len(project.calls()) == 2
    assert table("gates.csv") == rows


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("change", ["settings", "metric", "data"])
def test_changed_gate_takes_the_place_of_the_old_one(project, change):
    project.run()
    old = table("gates.csv")
    if change == "data":
        Path("data", "hearts", "a.nii").write_text("another scan")
    elif change == "settings":
        project.gates["both"] = project.gates["both"] | {"settings": {"rate": 0.5, "network_def.features": [3]}}
    else:
        project.gates["both"] = project.gates["both"] | {"metric": "dsc"}
    project.run()
    new = table("gates.csv")
    assert [row["gate"] for row in new] == ["one", "both"]
    assert new[0] == old[0]
    assert new[1]["settings" if change != "data" else "data"] != old[1]["settings" if change != "data" else "data"]
    assert len(project.calls()) == (2 if change == "metric" else 3), "the same run has every metric"
    assert len(table("gates_curves.csv")) == 12


@pytest.mark.usefixtures("blank_pictures")
def test_new_default_of_a_bundle_leaves_the_rows(project):
    project.run()
    file = Path("bundles", "tiny", "configs", "train.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"new": 1.0}))
    project.run()
    assert len(project.calls()) == 2


@pytest.mark.usefixtures("blank_pictures")
def test_failed_gate_is_told_when_the_others_are_done(project):
    project.gates["both"] = project.gates["both"] | {"settings": {"rate": -1.0}}
    with pytest.raises(RunsFailedError, match=r"1 gate\(s\) failed, the others are complete; the first: both: .*below"):
        project.run()
    assert [row["gate"] for row in table("gates.csv")] == ["one"]
    assert "| heads |" in Path("docs", "gates.md").read_text()


def test_what_cannot_be_run_is_named(project, monkeypatch):
    with pytest.raises(ConfigError, match="there is no gate 'two'; accepted are one, both"):
        project.run("two")
    with pytest.raises(MissingDataError, match=r"gate 'one' needs .*heads, which does not exist; give its data_dir"):
        project.run(data_dir="bundles")
    monkeypatch.delenv("MEDICAL_DATA_DIR")
    with pytest.raises(MissingDataError, match="data_dir is not given; give the folder that holds the data sets"):
        project.run()
    with pytest.raises(MissingDataError, match="data_dir is nowhere; give the folder"):
        project.run(data_dir="nowhere")
    project.gates["one"] = GATE | {"settings": {"raet": 1}}
    with pytest.raises(ConfigError, match="arm 'one' sets 'raet', which is not an option"):
        project.run(data_dir="data")
    project.gates["one"] = GATE | {"metric": "assd"}
    with pytest.raises(RunsFailedError, match="has no assd; correct the metric of the gate"):
        project.run("one", data_dir="data")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "gates.json cannot be read"),
        ('{"a": {"flor": 1}}', "gate 'a' has 'flor'; accepted are dataset, bundle, network"),
        ('{"a": {"bundle": "x"}}', "gate 'a' lacks a field .*'dataset'"),
    ],
)
def test_list_that_is_wrong_is_refused(tmp_path, text, words):
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_gates(tmp_path / "gates.json")


def curve(*values):
    return [{"iterations": 10 * number, "value": value} for number, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("values", "gain"),
    [((0.5, 0.6, 0.7, 0.75, 0.72, 0.78), 0.03), ((0.5, 0.8, 0.7), 0.0), ((0.9, 0.2, 0.3), 0.0)],
)
def test_gain_is_that_of_the_best_validation(values, gain):
    assert gain_at_end(curve(*values)) == pytest.approx(gain)


def test_training_with_one_validation_tells_nothing_of_convergence():
    assert gain_at_end(curve(0.5)) != gain_at_end(curve(0.5))


def test_page_of_the_repository_is_that_of_its_tables(repository):
    notes = {name: gate.note for name, gate in read_gates(repository / "bundles" / "gates.json").items()}
    assert (repository / "docs" / "gates.md").read_text(encoding="utf-8") == gates_page(repository / "docs", notes)


def test_gates_of_the_repository_name_bundles_overlays_and_options_that_exist(repository, tmp_path):
    from common.experiments.bundle_runs import Bundle

    gates = read_gates(repository / "bundles" / "gates.json")
    for gate in gates.values():
        for name in gate.dataset:
            (tmp_path / name).mkdir(exist_ok=True)
        bundle = Bundle(str(repository / "bundles" / gate.bundle))
        bundle.require_options(gate.run(tmp_path))
        assert len(gate.digest(bundle)) == 12
        assert gate.settings["max_epochs" if "max_epochs" in gate.settings else "iterations"] > 0
        assert 0 < gate.settings["test_fraction"] < 1, "patients that training never sees"
    assert len({gate.dataset[0] for gate in gates.values()}) == len(gates) >= 10
