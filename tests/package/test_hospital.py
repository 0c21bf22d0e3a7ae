"""A hospital's way: a zip file and the tool that checks it, a DICOM series in, a segmentation and a verdict out."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from common.archive import build_archives, sign

DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-").resolve()
SERIES = DATA / "dicom" / "hippocampus_crop"


@pytest.fixture(scope="module")
def received(repository, tmp_path_factory):
    """What a hospital receives: archives and the tool, nothing else."""
    folder = tmp_path_factory.mktemp("received")
    build_archives(str(repository / "bundles"), str(folder))
    return folder


def run(command, cwd, environment, status=0):
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == status, result.stdout[-3000:] + result.stderr[-3000:]
    return result


@pytest.fixture
def tool(received, environment, tmp_path):
    """Runs ``bundle_tool.pyz`` where nothing of this repository is."""
    return lambda *arguments, status=0: run(
        [sys.executable, received / "bundle_tool.pyz", *arguments], tmp_path, environment, status
    )


def test_tool_checks_and_installs_what_was_signed(received, tool, write_keys, tmp_path):
    archive = next(received.glob("*.zip"))
    private, public = write_keys(tmp_path)
    sign(str(archive), private)
    told = tool("verify", archive, "--public-key", public).stdout
    assert "files are those of the manifest" in told
    assert f"signed by the owner of {public}" in told
    told = tool("install", archive, "--into", tmp_path / "models", "--public-key", public).stdout
    root = tmp_path / "models" / archive.name.split("_v")[0]
    assert f"installed as {root}" in told
    assert json.loads((root / "manifest.json").read_text())["name"] == root.name


def test_tool_refuses_in_one_line_and_leaves_nothing(received, tool, tmp_path):
    content = next(received.glob("*.zip")).read_bytes()
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content[: len(content) // 2])
    result = tool("install", broken, "--into", tmp_path / "models", status=1)
    assert result.stderr.startswith("error: broken.zip is no complete zip file")
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.zip"]


@pytest.mark.real_data
@pytest.mark.skipif(not SERIES.is_dir(), reason="MEDICAL_DATA_DIR names no folder with a DICOM series")
def test_series_gets_a_segmentation_that_overlays_it_and_a_verdict(received, tool, run_python, tmp_path):
    archive = next(received.glob("spectral_ood_v*.zip"))
    tool("install", archive, "--into", tmp_path / "models")
    config = tmp_path / "models" / "spectral_ood" / "configs" / "inference.json"
    # As a PACS would name it.
    shutil.copytree(SERIES, tmp_path / "export" / "AVASARALA_CHRISJEN" / "PGBM-002")
    command = ["-m", "monai.bundle", "run", "--config_file", str(config), "--device", "cpu"]
    command += ["--dataset_dir", str(tmp_path / "export"), "--output_dir", str(tmp_path / "results")]
    told = run_python(command, cwd=tmp_path)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    (segmented,) = (tmp_path / "results").glob("*/*_seg.nii.gz")
    segmentation = nib.load(segmented)
    # The twin: another reader than ours, and MONAI's own writing of what it read.
    twin = LoadImage(reader="ITKReader", image_only=True)(str(SERIES))
    assert segmentation.shape == tuple(twin.shape)
    np.testing.assert_allclose(segmentation.affine, twin.affine.numpy(), atol=1e-4)
    labels = np.asarray(segmentation.dataobj)
    assert set(np.unique(labels)) == {0, 1}
    assert 300 < labels.sum() < 10_000, "a hippocampus has some thousand voxels of 1 mm"
    with open(tmp_path / "results" / "ood_report.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["error"] == ""
    assert float(row["oodm"]) > 0
    assert row["is_ood"] == str(float(row["oodm"]) > float(row["threshold"]))
    names = [path.name for path in (tmp_path / "results").rglob("*")]
    for text in (told.stdout, told.stderr, *names):
        assert "avasarala" not in text.lower()
        assert "PGBM" not in text
