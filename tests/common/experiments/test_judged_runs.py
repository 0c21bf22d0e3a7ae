"""Detectors on networks that runs have left: measured data set by data set, from the scores of a comparison."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import ConfigError, MissingDataError
from common.experiments.bundle_runs import Bundle
from common.experiments.detection_report import COLUMNS
from common.experiments.grid import Grid
from common.experiments.judged_runs import JudgedRuns, measure_detectors
from common.experiments.plan import Plan
from tests.common.experiments.test_bundle_runs import write_bundle

SCORES = {
    "training": [1.0, 3.0],
    "hearts": [2.0, 3.0],
    "livers": [2.5, 6.0],
    "noise": [5.0, 4.0, 2.2, 7.0],
    "ct": [9.0, 2.9],
}
CASES = {
    "training": ["0", "1"],
    "hearts": ["h1", "h2"],
    "livers": ["l1", "l2"],
    "noise": ["h1_noise", "h2_noise", "l1_noise", "l2_noise"],
    "ct": ["x", "h1_too"],
}
COMPARE = """
import csv
from pathlib import Path

def compare(output_dir, rows, **options):
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(output_dir) / "detectors.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"experiment": str(options)} for row in rows)
"""


def score_rows():
    rows = [dict.fromkeys(COLUMNS, "") | {"arm": "segmentation", "case": "h1", "metric": "dsc", "value": 0.5}]
    for group, scores in SCORES.items():
        inside = "" if group == "training" else str(group in ("hearts", "livers"))
        for case, score in zip(CASES[group], scores, strict=True):
            row = {"arm": "signature", "case": case, "metric": "score", "value": score}
            rows.append(dict.fromkeys(COLUMNS, "") | row | {"group": group, "in_distribution": inside})
    return rows


def test_each_data_set_is_measured_against_its_own_damaged_cases_and_all_other_scans():
    found = list(measure_detectors(pd.DataFrame(score_rows()), [2.0, 4.5]))
    values = {(row["dataset"], row["metric"], row.get("dose")): row["value"] for row in found}
    assert {row["detector"] for row in found} == {"signature"}
    # Hearts 2 and 3 against noise 5 and 4, and CT 9 and 2.9; livers 2.5 and 6 against 2.2 and 7, and the same CT.
    assert values["hearts", "auc_noise", None] == 1.0
    assert values["hearts", "auc_ct", None] == 0.75
    assert values["hearts", "auc", None] == 0.875
    assert values["livers", "auc_noise", None] == 0.5
    assert values["livers", "auc_ct", None] == 0.75
    # Training scores have mean 2 and deviation 1: thresholds 4 and 6.5.
    assert values["hearts", "sensitivity", 2.0] == 0.5
    assert values["hearts", "specificity", 2.0] == 1.0
    assert values["livers", "specificity", 2.0] == 0.5
    assert values["livers", "accuracy", 4.5] == pytest.approx(4 / 6)
    assert np.isfinite(list(values.values())).all()


@pytest.fixture
def judged(tmp_path):
    root = Path(write_bundle(tmp_path / "bundle"))
    (root / "compare.py").write_text(COMPARE)
    options = {key: f"@{key}" for key in ("output_dir", "model_dir", "split_file", "damages", "name")}
    compare = {"_target_": "compare.compare", "rows": score_rows()} | options
    overlay = {"damages": [], "name": "x", "work": compare}
    (root / "configs" / "detectors.json").write_text(json.dumps(overlay))
    for name in ("hearts", "livers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_text(name)
    datasets = {name: {"dataset_dir": str(tmp_path / name)} for name in ("hearts", "livers")}
    plan = Plan(datasets, {"alone": [], "shared": [{"together": True}]}, seeds=[3])
    grid = Grid(
        Bundle(str(root)), plan, name="tasks", output_dir=str(tmp_path / "out"), results_dir=str(tmp_path),
        reference="alone",
    )  # fmt: skip
    return JudgedRuns(grid, ["shared"], ["detectors.json"], judged_settings={"damages": ["noise"]})


def test_networks_that_runs_have_left_are_judged(judged, tmp_path):
    with pytest.raises(MissingDataError, match=r"together_shared\w+ holds no weights; run the experiment first"):
        judged.run()
    (run,) = [run for run in judged.grid.plan.runs() if run.together]
    folder = judged.grid.folder_of(run)
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.pt").touch()
    judged.run()
    with open(tmp_path / "out" / "tasks_detectors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["experiment"], row["arm"], row["seed"]) for row in rows} == {
        ("tasks_detectors", "shared: signature", "3")
    }
    assert {row["dataset"] for row in rows} == {"hearts", "livers"}
    assert {(row["swept"], row["dose"]) for row in rows} == {("", ""), ("threshold_c", "2.5")}
    assert {row["settings"] for row in rows} == {judged.grid.bundle.digests(run)["settings"]}
    tables = (tmp_path / "out" / "report_detectors" / "tables.md").read_text()
    assert "**hearts**, `auc`:" in tables
    told = pd.read_csv(folder / "detectors" / "detectors.csv")["experiment"][0]
    assert "'damages': ['noise']" in told
    assert f"'model_dir': '{folder / 'models'}'" in told


def test_arms_that_do_not_exist_are_named(judged):
    with pytest.raises(ConfigError, match=r"judged_arms names \['x'\]; accepted are alone, shared"):
        JudgedRuns(judged.grid, ["x"], [], judged_settings={})
