"""Evaluation and inference of every bundle where no picture can be drawn."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def no_pictures(monkeypatch):
    """Lets matplotlib fail at whatever it shall write."""

    def fail(*_, **__):
        raise RuntimeError("no pictures today")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)


@pytest.mark.parametrize(("name", "results"), [("inference", "ood_report.json"), ("evaluate", "metrics.json")])
@pytest.mark.tried(
    "Runs that are stopped",
    "Pictures that cannot be drawn or written, in every bundle",
    "A warning; the report is written.",
)
def test_results_are_written_without_pictures(
    bundle, trained, dataset, run_config, no_pictures, tmp_path, caplog, name, results
):
    folders = {"dataset_dir": dataset, "model_dir": trained.models, "output_dir": tmp_path}
    run_config(bundle, f"{name}.json", pictures=True, **folders)
    assert json.loads((tmp_path / results).read_text(encoding="utf-8"))
    warnings = [text for text in caplog.messages if "could not be made (RuntimeError: no pictures today)" in text]
    assert warnings
    drawn = [path for path in Path(tmp_path).glob("*.png") if path.is_file()]
    assert drawn == []
