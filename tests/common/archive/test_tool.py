"""The command lines: of the tool that hospitals get, and of the package."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.archive import build, build_tool, sign
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
    assert r"a\x1b[2K.zip is no complete zip file" in error
    assert error.rstrip("\n").isprintable()


@pytest.fixture
def lone_tool(repository, environment, tmp_path, monkeypatch):
    """Runs ``bundle_tool.pyz`` in an empty folder, where nothing else of this repository is."""
    # Archives of these tests get a smaller package; the tool is made of the whole one.
    with monkeypatch.context() as patch:
        patch.setattr(build, "PACKAGE", repository / "common")
        tool = build_tool(tmp_path / "tool")
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*arguments):
        command = [sys.executable, "-I", tool, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.tried(
    "Archives and weights",
    "Signing in a hospital, without a checkout",
    "`bundle_tool.pyz sign` signs, and `verify` accepts.",
)
def test_tool_alone_signs_what_it_then_accepts(archive, lone_tool, write_keys, tmp_path):
    private, public = write_keys(tmp_path / "keys")
    check = ("verify", archive, "--public-key", public, "--ignore-versions")
    unsigned = lone_tool(*check)
    assert (unsigned.returncode, unsigned.stderr.count("\n")) == (1, 1)
    assert "no signature" in unsigned.stderr
    signed = lone_tool("sign", archive, "--private-key", private)
    assert (signed.returncode, signed.stderr) == (0, "")
    assert (
        signed.stdout == f"{archive}.sig written; give it away beside the archive, and the public key by another way\n"
    )
    written = Path(f"{archive}.sig").read_bytes()
    sign(archive, private)
    assert Path(f"{archive}.sig").read_bytes() == written, "as in a checkout"
    accepted = lone_tool(*check)
    assert accepted.returncode == 0, accepted.stderr
    assert f"signed by the owner of {public}" in accepted.stdout
    assert list((tmp_path / "empty").iterdir()) == []


def test_tool_refuses_to_sign_in_one_line_and_leaves_nothing(archive, write_keys, tmp_path, capsys):
    private, public = write_keys(tmp_path / "keys")
    for file, key, text in [
        (archive, public, "is no usable private key"),
        (archive, str(tmp_path / "none.pem"), "none.pem cannot be read"),
        (str(tmp_path / "none.zip"), private, "archive"),
    ]:
        before = sorted(tmp_path.rglob("*"))
        assert main(["sign", file, "--private-key", key]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert text in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(SystemExit, match="2"):
        main(["sign", archive])
    assert "--private-key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["verify", "none.zip"], 1, "error: archive none.zip does not exist"),
        (["verify"], 1, "error: verify needs FILE"),
    ],
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
