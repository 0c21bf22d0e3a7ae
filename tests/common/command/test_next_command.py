"""What a user is told to type next works where it is typed."""

import sys

import pytest

from common.runtime import next_command
from common.runtime.next_command import command_line


@pytest.fixture
def installed(monkeypatch):
    """Says whether ``trustseg`` is on the path."""
    monkeypatch.setattr(sys, "argv", ["python"])
    return lambda yes: monkeypatch.setattr(next_command.shutil, "which", lambda _: "/bin/trustseg" if yes else None)


def test_bundle_is_named_unless_it_is_the_default(installed, repository):
    installed(True)
    bundles = [repository / "bundles" / name for name in ("spectral_ood", "med_ood")]
    lines = [command_line(root, "segment", "SCANS", o="RESULTS", model_dir="my run/models") for root in bundles]
    line = "trustseg segment SCANS -o RESULTS --model_dir 'my run/models'"
    assert lines == [line, f"{line} --bundle {bundles[1]}"]


def test_without_an_installation_python_runs_the_same(installed, repository, tmp_path, monkeypatch):
    installed(False)
    root = repository / "bundles" / "spectral_ood"
    monkeypatch.chdir(repository)
    assert (
        command_line(root, "plan", "['a', 'b']", seed=3)
        == """python -m common plan '['"'"'a'"'"', '"'"'b'"'"']' --seed 3"""
    )
    monkeypatch.chdir(tmp_path)
    assert command_line(root, "plan", "d") == f"PYTHONPATH={repository} python -m common plan d"
    # From an archive, which holds the package itself.
    monkeypatch.setattr(next_command, "_PACKAGE", tmp_path / "scripts" / "common")
    assert command_line(tmp_path, "plan", "d") == "python -m scripts.common plan d"
    installed(True)
    assert command_line(tmp_path, "plan", "d") == f"trustseg plan d --bundle {tmp_path}"


def test_program_that_runs_is_named(installed, repository, monkeypatch):
    installed(False)
    monkeypatch.setattr(sys, "argv", ["/opt/bin/trustseg", "train"])
    assert command_line(repository / "bundles" / "spectral_ood", "plan", "d") == "trustseg plan d"
