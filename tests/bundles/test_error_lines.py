"""What a user sees of an error on the command line: exit status 1, one line, no traceback, nothing half written."""

import numpy as np
import pytest

TWO_BUNDLES = pytest.mark.two_bundles
"""What the process does with an error is shared by all; that each raises it, ``test_bad_*.py`` test."""


def error_line(result):
    """The one line of a failed process."""
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_misspelt_option(bundle, run_command, dataset, tmp_path):
    result = run_command(
        bundle, "train.json", cwd=tmp_path, check=False, dataset_dir=dataset, max_epoch=3, output_dir=tmp_path
    )
    line = error_line(result)
    assert "unknown option --max_epoch" in line
    assert "did you mean --max_epochs?" in line
    assert not list(tmp_path.rglob("*.pt"))


@TWO_BUNDLES
def test_traceback_on_request(bundle, run_command, dataset, tmp_path):
    settings = {"dataset_dir": dataset, "max_epoch": 3, "output_dir": tmp_path, "env": {"BUNDLE_TRACEBACK": "1"}}
    result = run_command(bundle, "train.json", cwd=tmp_path, check=False, **settings)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "unknown option --max_epoch" in result.stderr
    assert not [line for line in result.stderr.splitlines() if line.startswith("error:")]


@TWO_BUNDLES
def test_broken_scan(bundle, run_command, trained, make_scan, save_scan, shape, tmp_path):
    scans = tmp_path / "scans"
    image = make_scan(0)[0] if shape["spatial_dims"] == 3 else make_scan(0, (20, 18))[0]
    for name, array in {"good": image, "bad": image * np.nan}.items():
        save_scan(scans / name, array, channels=shape["channels"])
    settings = {"dataset_dir": scans, "model_dir": trained.models, "output_dir": tmp_path / "out"}
    result = run_command(bundle, "inference.json", cwd=tmp_path, check=False, **settings)
    assert "1 of 2 case(s) failed" in error_line(result)
    assert list((tmp_path / "out" / "good").iterdir())


@TWO_BUNDLES
@pytest.mark.tried(
    "Training that goes on",
    "A disk that is full when weights are written",
    "One line; nothing is half written.",
)
def test_full_disk(bundle, run_command, dataset, tmp_path):
    """No file may grow beyond 20 kB, as if the disk were full: the weights cannot be written."""
    result = run_command(
        bundle, "train.json", cwd=tmp_path, check=False, file_size=20_000,
        dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=tmp_path / "m",
    )  # fmt: skip
    assert "cannot write" in error_line(result)
    assert "free space or choose another output_dir" in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith((".", "tmp"))]
    assert not list(tmp_path.rglob("*.pt"))
