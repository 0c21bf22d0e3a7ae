"""The short command segments as the long one does."""

import csv
import json

import pytest

from common.command.segment import segment_scans
from tests.running import run_of


@pytest.mark.two_bundles
def test_one_scan_is_segmented_by_the_short_command(bundle, dataset, trained, tmp_path):
    listed = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["training"][0]["image"]
    with run_of(bundle):
        segment_scans(
            str(dataset / listed),
            output_dir=str(tmp_path),
            bundle=str(bundle),
            model_dir=str(trained.models),
            device="cpu",
        )
    with open(tmp_path / "ood_report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["error"]) for row in rows] == [((dataset / listed).name.split(".")[0], "")]
    assert (tmp_path / "report.html").is_file()
