"""Whole runs of inference, in this process and as small as they can be, of folders with anything in them."""

import csv
import gzip
import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from tests.running import importable, own_error

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "spectral_ood"
LAYERS = ["decoders.0", "encoders.0", "image"]
SETTINGS = {"network_def#features": [2, 2], "feature_layers": LAYERS, "roi_size": [8, 8, 8], "report#pictures": 1}
"""The smallest network and windows; drawing twelve scans would take longer than all the rest."""
MEMORY = 400_000
"""Most kB that a run may take up beside what the process holds before it; 100,000 were measured."""
SHAPE = (8, 9, 10)
ORDERS = ("little", "big")
NUMBER = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")
GOOD = ("good_a", "good_b")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scan_voxels(index):
    """Voxels of a scan, whole numbers above 0."""
    noise = np.random.default_rng(index).integers(1, 100, SHAPE)
    return (noise + 40 * np.arange(SHAPE[0])[:, None, None]).astype(np.int16)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random weights and the bank of four scans of noise."""
    folder = tmp_path_factory.mktemp("models")
    with importable(BUNDLE):
        from scripts.common.spectral import SignatureBank, weights_digest
        from scripts.common.spectral.digest import bank_settings

        parser = ConfigParser()
        parser.read_config(str(BUNDLE / "configs" / "inference.json"))
        parser.update(SETTINGS | {"device": "cpu", "model_dir": str(folder)})
        torch.manual_seed(0)
        names = ("network", "inferer", "image_transforms")
        network, inferer, transforms = (parser.get_parsed_content(name) for name in names)
        torch.save(network.state_dict(), folder / "model.pt")
        settings = bank_settings(inferer, transforms, weights_digest(network.state_dict()))
        network.eval()
        with torch.no_grad():
            rows = [inferer(torch.randn(1, 1, *SHAPE), network)["signature"][0].tolist() for _ in range(4)]
        SignatureBank.fit(rows, **settings).save(folder / "signature_bank.npz")
    return folder


@contextmanager
def memory_bounded():
    """Fails when the process meanwhile held much more memory than before."""

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    # The highest mark starts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    yield
    assert status("VmHWM") - before < MEMORY, "a run took more memory than it may"


def read_results(output):
    """What a run wrote: rows of the report by case, what was not used, and masks by case."""
    rows = json.loads((output / "ood_report.json").read_text(encoding="utf-8"))["rows"]
    with open(output / "ood_report.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    # A spreadsheet computes nothing of a number.
    assert not [row for row in table if re.match(r"[=+\-@\t\r\n]", row["image"]) and not NUMBER.fullmatch(row["image"])]
    skipped = output / "skipped_files.json"
    listed = json.loads(skipped.read_text(encoding="utf-8"))["skipped"] if skipped.exists() else []
    by_case = {row["image"]: row for row in rows}
    assert len(by_case) == len(rows), "every scan has a name of its own"
    masks = {path.parent.name: path for path in output.glob("*/*_seg.nii.gz")}
    return SimpleNamespace(output=output, rows=by_case, skipped=listed, masks=masks)


def check_rows(results):
    """Every row holds a mask and a finite verdict, or a reason in one printable line; no file is half written."""
    for case, row in results.rows.items():
        if row["error"]:
            assert row["error"].isprintable()
            assert "Error" not in row["error"], row["error"]
            assert case not in results.masks
        else:
            assert math.isfinite(row["oodm"])
            assert isinstance(row["is_ood"], bool)
            assert case in results.masks
    names = [path.name for path in results.output.rglob("*")]
    assert not [name for name in names if name.startswith((".", "tmp"))]


def place_of(path):
    """Shape and affine of the first three axes of an image, as nibabel reads them of its header."""
    content = (gzip.decompress if path.name.endswith(".gz") else bytes)(path.read_bytes())
    kind = nib.Nifti1Header if 348 in (int.from_bytes(content[:4], order) for order in ORDERS) else nib.Nifti2Header
    header = kind(content[: kind.sizeof_hdr], check=False)
    return header.get_data_shape()[:3], header.get_best_affine()


@pytest.fixture
def segment(run_config, models, tmp_path, monkeypatch, caplog):
    """Runs inference on a folder that ``fill`` fills, and checks what holds whatever is in it; returns the results."""

    def run(fill, **settings):
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        folder, output = root / "scans", root / "out"
        for name in ("scans", "work", "temporary"):
            (root / name).mkdir()
        fill(folder)
        before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
        monkeypatch.chdir(root / "work")
        monkeypatch.setattr(tempfile, "tempdir", str(root / "temporary"))
        failed = None
        caplog.clear()
        with caplog.at_level(logging.INFO), memory_bounded():
            try:
                run_config(
                    BUNDLE, "inference.json", tiny=False, dataset_dir=folder, model_dir=models, output_dir=output,
                    **SETTINGS, **settings,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - MONAI wraps it in one of any kind
                failed = own_error(error)
        monkeypatch.undo()
        after = {path: path.lstat().st_mtime_ns for path in root.rglob("*") if output not in [path, *path.parents]}
        assert after == before, "nothing is written outside output_dir"
        results = read_results(output)
        check_rows(results)
        assert bool(failed) == any(row["error"] for row in results.rows.values())
        assert failed is None or type(failed).__name__ == "CasesFailedError"
        lines = [record.getMessage() for record in caplog.records if not record.name.startswith("monai.bundle")]
        assert all(line.isprintable() for line in lines)
        results.log, results.folder = "\n".join(lines), folder
        return results

    yield run
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def put_good():
    """Writes the sound scans."""

    def put(folder):
        for index, name in enumerate(GOOD):
            nib.save(nib.Nifti1Image(scan_voxels(index), np.diag([1.5, 2, 3, 1])), folder / f"{name}.nii.gz")

    return put


@pytest.fixture
def reference(segment, put_good):
    """Rows and digests of the masks of the sound scans alone."""
    results = segment(put_good)
    return {name: (results.rows[name], digest(results.masks[name])) for name in GOOD}


@pytest.fixture
def assert_good(reference):
    """Makes sure that the sound scans have the masks and the verdicts that they have alone."""

    def check(results):
        assert {name: (results.rows[name], digest(results.masks[name])) for name in GOOD} == reference

    return check


@pytest.fixture(scope="session")
def scan_array():
    return scan_voxels


@pytest.fixture(scope="session")
def place():
    return place_of
