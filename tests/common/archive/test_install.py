"""Installing: a sound archive is unpacked whole or not at all, and replaces nothing unasked."""

import os
import zipfile

import pytest

from common.archive import install
from common.errors import ArchiveError, OutputError


@pytest.fixture
def file(files, sealed, tmp_path):
    """The path of a sound archive, made as the hostile ones are."""
    path = tmp_path / "organ.zip"
    path.write_bytes(sealed(files))
    return str(path)


def test_sound_archive_passes_and_is_installed_whole(file, tmp_path, caplog):
    caplog.set_level("INFO")
    install(file, str(tmp_path / "deep" / "models"), ignore_versions=True)
    root = tmp_path / "deep" / "models"
    unpacked = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    with zipfile.ZipFile(file) as archive:
        assert {name: path.read_bytes() for name, path in unpacked.items()} == {
            name: archive.read(name) for name in archive.namelist()
        }
    assert [path.name for path in root.iterdir()] == ["organ"]
    assert "organ 1.2.3: 14 files are those of the manifest" in caplog.text
    assert "signature not checked" in caplog.text


def test_installed_bundle_is_replaced_only_on_request(file, tmp_path):
    root = tmp_path / "models"
    install(file, str(root), ignore_versions=True)
    (root / "organ" / "mine.txt").write_text("mine")
    with pytest.raises(ArchiveError, match="organ exists; remove it, choose another --folder, or replace it"):
        install(file, str(root), ignore_versions=True)
    install(file, str(root), ignore_versions=True, folder="organ_next")
    assert (root / "organ" / "mine.txt").read_text() == "mine"
    install(file, str(root), ignore_versions=True, replace=True)
    assert not (root / "organ" / "mine.txt").exists()
    assert (root / "organ.old" / "mine.txt").read_text() == "mine", "what was trained or written there is kept"
    assert sorted(path.name for path in root.iterdir()) == ["organ", "organ.old", "organ_next"]
    with pytest.raises(ArchiveError, match=r"organ\.old holds the bundle that was replaced before; move or remove it"):
        install(file, str(root), ignore_versions=True, replace=True)


def test_bundle_comes_back_where_the_new_one_cannot_take_its_place(file, tmp_path, monkeypatch):
    root = tmp_path / "models"
    install(file, str(root), ignore_versions=True)
    (root / "organ" / "mine.txt").write_text("mine")
    moves = []

    def second_fails(source, target):
        moves.append(target)
        if len(moves) == 2:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OutputError, match=r"cannot write .*organ: No space left on device"):
        install(file, str(root), ignore_versions=True, replace=True)
    assert (root / "organ" / "mine.txt").read_text() == "mine"
    assert [path.name for path in root.iterdir()] == ["organ"]


def test_folder_that_is_no_bundle_is_never_replaced(file, tmp_path):
    (tmp_path / "home" / "thesis").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="thesis is no bundle, so it is not replaced; choose another --folder"):
        install(file, str(tmp_path / "home"), ignore_versions=True, folder="thesis", replace=True)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis"]


def test_bundle_kept_earlier_does_not_come_back_when_an_installation_fails(file, tmp_path, monkeypatch):
    (tmp_path / "organ.old").mkdir()
    monkeypatch.setattr(type(tmp_path), "write_bytes", lambda path, content: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError):
        install(file, str(tmp_path), ignore_versions=True)
    assert (tmp_path / "organ.old").is_dir()
    assert not (tmp_path / "organ").exists()


@pytest.mark.parametrize("folder", ["../out", "a/b", "..", "/tmp"])
def test_folder_elsewhere_is_refused(file, tmp_path, folder):
    with pytest.raises(ArchiveError, match="is no name of a folder"):
        install(file, str(tmp_path / "models"), ignore_versions=True, folder=folder)
    assert not (tmp_path / "models").exists()


def test_installation_that_fails_leaves_what_was_there(file, tmp_path, monkeypatch):
    root = tmp_path / "models"
    install(file, str(root), ignore_versions=True)
    (root / "organ" / "mine.txt").write_text("mine")
    write, calls = type(root).write_bytes, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(type(root), "write_bytes", full)
    for settings in ({"replace": True}, {"folder": "other"}):
        calls.clear()
        with pytest.raises(OutputError, match="No space left on device; free space"):
            install(file, str(root), ignore_versions=True, **settings)
        assert [path.name for path in root.iterdir()] == ["organ"]
        assert (root / "organ" / "mine.txt").read_text() == "mine"
    calls.clear()
    with pytest.raises(OutputError):
        install(file, str(tmp_path / "new" / "place"), ignore_versions=True)
    assert not (tmp_path / "new").exists()
