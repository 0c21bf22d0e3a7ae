"""Folders with odd names, odd files and missing ones, given to every bundle: each file has a row or a line."""

import csv
import json
import logging
import os

import pytest

from common.data.names import safe_name, with_digest
from common.runtime.listing import NO_FILE

NAMES = [
    "good", "GOOD", "..", "", "CON", "ood_report.csv", "gallery.png", "=cmd|' !A0", "@SUM(1)",
    "a\n2026-01-01 root INFO forged\x1b[2J\u202e", "M\udcfcller", "b" * 230,
]  # fmt: skip
EQUAL = ("good", "GOOD")
"""Names that are one folder on some file systems."""


@pytest.fixture
def hostile(make_scan, save_scan, shape, tmp_path):
    """A folder of one scan under many names, beside a pipe and a backup."""
    folder = tmp_path / "in" / "scans"
    image = make_scan(0, (20, 18, 16)[: shape["spatial_dims"]])[0]
    path = save_scan(folder / "good", image, channels=shape["channels"])
    content, ending = path.read_bytes(), path.name.removeprefix("good")
    for name in NAMES:
        (folder / f"{name}{ending}").write_bytes(content)
    (folder / "good.bak").write_bytes(content)
    os.mkfifo(folder / f"pipe{ending}")
    return folder


@pytest.mark.tried(
    "Files of a folder",
    "A folder of hostile names, a pipe and a backup, in every bundle",
    "Every file has a row or a line; nothing is written elsewhere.",
)
def test_no_name_leads_elsewhere_and_none_costs_the_report(bundle, run_config, trained, hostile, tmp_path, caplog):
    output = tmp_path / "in" / "out"
    (ending,) = [path.name.removeprefix("pipe") for path in hostile.glob("pipe*")]
    cases = {with_digest(name, f"{name}{ending}") if name in EQUAL else safe_name(name) for name in NAMES}
    before = {path for path in tmp_path.rglob("*") if output not in path.parents}
    with caplog.at_level(logging.INFO):
        run_config(bundle, "inference.json", dataset_dir=hostile, model_dir=trained.models, output_dir=output)
    assert {path for path in tmp_path.rglob("*") if output not in path.parents} - before <= {output}
    report = json.loads((output / "ood_report.json").read_text(encoding="utf-8"))["rows"]
    assert {row["image"] for row in report} == cases
    assert len({(row["oodm"], row["error"]) for row in report}) == 1
    masks = {path.parent.name: path.read_bytes() for path in output.glob("*/*_seg.*")}
    assert set(masks) == cases
    assert len(set(masks.values())) == 1
    with open(output / "ood_report.csv", newline="", encoding="utf-8") as file:
        cells = [row["image"] for row in csv.DictReader(file)]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r\n"]
    assert len(cells) == len(NAMES)
    listed = json.loads((output / "skipped_files.json").read_text(encoding="utf-8"))["skipped"]
    assert len(listed) == 2
    assert NO_FILE in [item["reason"] for item in listed]
    # What MONAI logs of the command line comes before the run.
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith("monai.bundle")]
    assert all(line.isprintable() for line in lines)
    assert f"; 2 file(s) were not used, see {output}" in lines[-1]


@pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
class TestListedFiles:
    @pytest.mark.tried(
        "Files of a folder",
        "`dataset.json` that lists a missing file",
        "A row with the reason; training refuses the data set.",
    )
    def test_missing_image_is_a_row(self, bundle, fail_config, make_dataset, trained, shape, tmp_path, name):
        folder = make_dataset(tmp_path / "data", 3, **shape)
        (file,) = (folder / "imagesTr").glob("case_1.*")
        file.unlink()
        settings = {"dataset_dir": folder, "model_dir": trained.models, "output_dir": tmp_path / "out"}
        error = fail_config(bundle, name, **settings)
        assert type(error).__name__ == "CasesFailedError"
        assert f"1 of 3 case(s) failed, the others are complete; the first: case 'case_1': image {file}" in str(error)
        assert "cannot be read (no such file); copy the file there, or correct dataset.json" in str(error)

    @pytest.mark.tried(
        "Files of a folder",
        "`dataset.json` with an item that is no scan",
        "A row that names the number of the item; training refuses the data set.",
    )
    def test_malformed_item_is_a_row(self, bundle, fail_config, make_dataset, trained, shape, tmp_path, name):
        folder = make_dataset(tmp_path / "data", 3, **shape)
        listing = json.loads((folder / "dataset.json").read_text())
        del listing["training"][1]["image"]
        (folder / "dataset.json").write_text(json.dumps(listing))
        settings = {"dataset_dir": folder, "model_dir": trained.models, "output_dir": tmp_path / "out"}
        error = fail_config(bundle, name, **settings)
        assert type(error).__name__ == "CasesFailedError"
        assert "1 of 3 case(s) failed, the others are complete; the first: case 'training_item_2': item 2" in str(error)
        assert f"of the list 'training' of {folder / 'dataset.json'} has no 'image'; accepted are" in str(error)

    @pytest.mark.tried("Files of a folder", "`dataset.json` with 100,000 brackets", "One line, exit status 1.")
    def test_listing_nested_too_deeply_is_one_line(self, bundle, fail_config, trained, tmp_path, name):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "dataset.json").write_text("[" * 100_000)
        settings = {"dataset_dir": tmp_path / "data", "model_dir": trained.models, "output_dir": tmp_path / "out"}
        error = fail_config(bundle, name, **settings)
        assert type(error).__name__ == "MissingDataError"
        assert "dataset.json is no Decathlon listing (brackets nested too deeply); it needs" in str(error)
