"""The command lines: of the tool that hospitals get, and of the package."""

import subprocess
import sys

import pytest

from common.archive.tool import main


def test_command_line_of_the_tool(archive, tmp_path, capsys):
    assert main(["verify", archive]) == 0
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine"]) == 0
    assert (tmp_path / "models" / "mine" / "configs" / "train.json").is_file()
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "mine exists" in error
    assert main(["install", archive, "--into", str(tmp_path / "models"), "--folder", "mine", "--replace"]) == 0


def test_what_a_hostile_file_says_cannot_drive_the_terminal(tmp_path, capsys):
    (tmp_path / "a\x1b[2K.zip").write_bytes(b"none")
    assert main(["verify", str(tmp_path / "a\x1b[2K.zip")]) == 1
    error = capsys.readouterr().err
    assert "a?[2K.zip is no complete zip file" in error
    assert error.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [(["verify", "none.zip"], 1, "error: archive none.zip does not exist"), (["verify"], 2, "file")],
)
def test_command_line_of_the_package(repository, run_python, tmp_path, arguments, status, text):
    result = run_python(["-m", "common", *arguments], cwd=tmp_path, env={"PYTHONPATH": str(repository)})
    assert result.returncode == status
    assert text in result.stderr


def test_tool_needs_the_standard_library_alone(repository, environment):
    command = "import common.archive.tool, sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    tops = {name.split(".")[0] for name in result.stdout.split()}
    assert "common" in tops
    assert not tops - sys.stdlib_module_names - {"common", "__main__", "_distutils_hack", "sitecustomize"}
