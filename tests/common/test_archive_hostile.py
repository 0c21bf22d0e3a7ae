"""Archives that somebody broke, by accident or on purpose: each is refused in one line and leaves nothing behind."""

import io
import json
import pickle
import re
import stat
import struct
import zipfile
from hashlib import sha256

import numpy as np
import pytest
import torch

from common.archive import build, build_archive, install, read_archive, structure, verify
from common.archive.build import _zip
from common.errors import ArchiveError, BundleError, MissingDataError, OutputError
from common.spectral import SignatureBank


@pytest.fixture
def files(make_bundle, tmp_path, monkeypatch):
    """What a sound archive holds: name in the archive -> content."""
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    with zipfile.ZipFile(build_archive(make_bundle(), tmp_path / "dist")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refuse(tmp_path):
    """Installs an archive that must be refused, and returns the one line that says why."""

    def start(content):
        file = tmp_path / "received" / "organ.zip"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(BundleError) as verified:
            verify(str(file), ignore_versions=True)
        with pytest.raises(BundleError) as caught:
            install(str(file), str(tmp_path / "deep" / "models"), ignore_versions=True)
        assert str(verified.value) == str(caught.value)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing is left behind"
        assert "\n" not in str(caught.value)
        assert "organ.zip" in str(caught.value)
        return str(caught.value)

    return start


def sealed(files):
    """An archive whose manifest agrees with its files, as a careful attacker would make it."""
    manifest = json.loads(files["organ/manifest.json"])
    own = {name: content for name, content in files.items() if name != "organ/manifest.json"}
    manifest["files"] = {name.removeprefix("organ/"): sha256(content).hexdigest() for name, content in own.items()}
    return _zip(own | {"organ/manifest.json": json.dumps(manifest).encode()})


def entry(name, mode=stat.S_IFREG | 0o644, content=b"x", method=zipfile.ZIP_STORED):
    info = zipfile.ZipInfo(name)
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    info.compress_type = method
    return info, content


def with_entries(files, *entries):
    """An archive with further entries, whose names zipfile would otherwise correct."""
    buffer = io.BytesIO(_zip(files))
    with zipfile.ZipFile(buffer, "a") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return buffer.getvalue()


ENTRIES = {
    "path that climbs out": (entry("organ/../../evil.py"), "the name 'organ/../../evil.py' is not accepted"),
    "absolute path": (entry("/etc/cron.d/evil.txt"), "the name '/etc/cron.d/evil.txt' is not accepted"),
    "drive of another system": (entry("C:\\evil.txt"), "is not accepted"),
    "backslash": (entry("organ\\..\\evil.py"), "is not accepted"),
    "hidden file": (entry("organ/.profile.txt"), "is not accepted"),
    "letter that looks like another": (entry("organ/configs/inf\u0435rence.json"), "is not accepted"),
    "line break in a name": (entry("organ/a\nb.txt"), "is not accepted"),
    "folder entry": (entry("organ/empty/"), "is not accepted"),
    "symbolic link": (entry("organ/link.txt", stat.S_IFLNK | 0o777, b"/etc/passwd"), "link.txt is a link or a device"),
    "device": (entry("organ/device.txt", stat.S_IFCHR | 0o600), "device.txt is a link or a device"),
    "second top folder": (entry("other/a.txt"), "holds ['organ', 'other'] at its top"),
    "file beside the folder": (entry("a.txt"), "at its top; accepted is one folder"),
    "file that is a folder elsewhere": (entry("organ/configs/train.json/a.txt"), "is a file and a folder at once"),
    "library": (entry("organ/scripts/fast.so"), "fast.so is of a kind that bundles do not have"),
    "pickle by name": (entry("organ/models/model.pkl"), "model.pkl is of a kind that bundles do not have"),
    "unusual compression": (entry("organ/a.txt", method=zipfile.ZIP_BZIP2), "compressed by method 12"),
    "bomb": (
        entry("organ/a.txt", content=bytes(10**6), method=zipfile.ZIP_DEFLATED),
        "to 1000000 bytes; at most 200 times as many are accepted: it is a bomb",
    ),
    "file of nobody's manifest": (entry("organ/extra.py"), "extra.py is not in the manifest"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_hostile_entry_is_refused(files, refuse, kind):
    added, text = ENTRIES[kind]
    assert text in refuse(with_entries(files, added))


@pytest.mark.parametrize("name", ["organ/LICENSE", "organ/license"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns while the test writes it
def test_repeated_name_is_refused(files, refuse, name):
    assert "is there more than once; one of them would hide the other" in refuse(
        with_entries(files, entry("organ/license.txt"), entry("organ/LICENSE.txt"))
        if name.islower()
        else with_entries(files, entry(name, content=b"other"))
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_archive_is_refused(files, refuse, share):
    content = _zip(files)
    assert "is no complete zip file" in refuse(content[: int(share * len(content))])


def test_anything_else_is_refused(refuse):
    for content in (b"no archive at all", b"PK\3\4" + bytes(100)):
        assert "is no complete zip file" in refuse(content)
    assert "is an empty zip file" in refuse(_zip({}))


@pytest.mark.parametrize(("before", "after"), [(b"#!/bin/sh\n", b""), (b"", b"trailing"), (b"PK\3\4", b"")])
def test_data_around_the_archive_are_refused(files, refuse, before, after):
    assert re.search("hidden data|data after its last file|no complete zip", refuse(before + _zip(files) + after))


def test_comment_of_the_archive_is_refused(files, refuse):
    buffer = io.BytesIO(_zip(files))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hidden"
    assert "holds data after its last file" in refuse(buffer.getvalue())


def test_entries_that_share_their_bytes_are_refused(files, refuse):
    """The bomb that repeats one compressed block under many names."""
    buffer = io.BytesIO(_zip(files))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.filelist.append(archive.filelist[0])
        archive._didModify = True
    assert re.search("overlaps another file|more than once", refuse(buffer.getvalue()))
    content = bytearray(_zip(files | {"organ/a.txt": b"x" * 50, "organ/b.txt": b"x" * 50}))
    # The directory's place of the second file becomes that of the first.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first, second = (archive.getinfo(f"organ/{name}.txt") for name in "ab")
        position = content.index(b"organ/b.txt", archive.start_dir) - 4
    assert content[position : position + 4] == struct.pack("<L", second.header_offset)
    content[position : position + 4] = struct.pack("<L", first.header_offset)
    assert "overlaps another file or follows hidden data" in refuse(bytes(content))


def test_encrypted_file_is_refused(files, refuse):
    content = bytearray(_zip(files))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        content[archive.start_dir + 8] |= 1
    assert "is encrypted" in refuse(bytes(content))


def test_too_much_is_refused(files, refuse, monkeypatch):
    monkeypatch.setattr(structure, "MAX_FILES", 10)
    assert "accepted are 10 files" in refuse(_zip(files))
    monkeypatch.setattr(structure, "MAX_FILES", 1000)
    monkeypatch.setattr(structure, "MAX_BYTES", 1000)
    assert "1000 bytes: it is no bundle" in refuse(_zip(files))


def test_damaged_content_is_refused(files, refuse):
    content = bytearray(_zip(files))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo("organ/models/model.pt")
    content[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    assert "model.pt is damaged" in refuse(bytes(content))


@pytest.mark.parametrize("name", ["configs/train.json", "scripts/__init__.py", "models/model.pt", "docs/README.md"])
def test_changed_file_is_refused(files, refuse, name):
    content = files[f"organ/{name}"]
    assert f"{name} is not the file of the manifest" in refuse(_zip(files | {f"organ/{name}": content + b"#"}))


def test_incomplete_archive_is_refused(files, refuse):
    without = {name: content for name, content in files.items() if name != "organ/configs/train.json"}
    assert "configs/train.json is missing; the archive is incomplete" in refuse(_zip(without))
    assert "has no configs/train.json; it is no whole bundle" in refuse(sealed(without))
    without = {name: content for name, content in files.items() if name != "organ/manifest.json"}
    assert "has no organ/manifest.json" in refuse(_zip(without))


def manifest_with(files, changes):
    return json.dumps(json.loads(files["organ/manifest.json"]) | changes).encode()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "other"}, "the manifest is of other, the folder is organ"),
        ({"version": "9.9.9"}, "version 1.2.3 in its metadata, 9.9.9 in its manifest"),
        ({"format": 2}, "is no manifest (its format is not 1)"),
        ({"requires": {"torch": []}}, "is no manifest"),
        ({"requires": {"torch": ["newest"]}}, "is no manifest"),
        ({"requires": {"--index-url=x": ["1.0"]}}, "is no manifest"),
        ({"files": {"a": "b"}}, "is no manifest"),
        ({"files": []}, "is no manifest"),
        ({"more": 1}, "is no manifest"),
    ],
)
def test_manifest_that_contradicts_is_refused(files, refuse, changes, text):
    assert text in refuse(_zip(files | {"organ/manifest.json": manifest_with(files, changes)}))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"format": 1, "format": 1}', b"[" * 100_000])
def test_manifest_that_is_none_is_refused(files, refuse, content):
    text = refuse(_zip(files | {"organ/manifest.json": content}))
    assert "is no manifest" in text or "bomb" in text


class Evil:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def saved(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def arrays(**content):
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


def huge_memo():
    """A pickle of few bytes for which the C unpickler asks for gigabytes."""
    data = b"\x80\x02}r\xff\xff\xff\x7f."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model/data.pkl", data)
        file.writestr("model/byteorder", b"little")
    return buffer.getvalue()


PICKLES = {
    "code in the weights": ("models/model.pt", lambda: saved({"w": torch.zeros(2), "x": Evil()}), "__builtin__.eval"),
    "bare pickle as weights": ("models/model.pt", lambda: pickle.dumps(Evil()), "not a zip file"),
    "old format of torch": (
        "models/model.pt",
        lambda: saved({"w": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "not a zip file",
    ),
    "network in place of its weights": ("models/model.pt", lambda: saved(torch.nn.Linear(1, 1)), "it asks for"),
    "numbers among the weights": ("models/model.pt", lambda: saved({"w": 1.0}), "it holds more than names and tensors"),
    "pickle that fills the memory": ("models/model.pt", huge_memo, "other weights"),
    "objects in the bank": (
        "models/signature_bank.npz",
        lambda: arrays(weights_digest=np.asarray("x" * 64), signatures=np.asarray([Evil()], dtype=object)),
        "an array in it is of type '|O'",
    ),
    "bank without a digest": (
        "models/signature_bank.npz",
        lambda: arrays(signatures=np.zeros(3)),
        "weights_digest.npy",
    ),
    "bank that is no archive": ("models/signature_bank.npz", lambda: b"none", "not a zip file"),
    "pickle by another name": ("docs/split.json", lambda: pickle.dumps(Evil()), "docs/split.json is a pickle"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickle_other_than_tensors_is_refused(files, refuse, kind):
    name, make, text = PICKLES[kind]
    assert text in refuse(sealed(files | {f"organ/{name}": make()}))


def test_bank_of_other_weights_is_refused(files, refuse, tmp_path):
    changed = {"layer.weight": torch.ones(2, 3), "layer.bias": torch.zeros(2)}
    text = "the signature bank was fitted to other weights than models/model.pt"
    assert text in refuse(sealed(files | {"organ/models/model.pt": saved(changed)}))
    SignatureBank.fit([[1.0, 0.0], [0.0, 1.0]], weights_digest="0" * 64).save(tmp_path / "bank.npz")
    bank = (tmp_path / "bank.npz").read_bytes()
    assert text in refuse(sealed(files | {"organ/models/signature_bank.npz": bank}))


def test_sound_archive_passes_and_is_installed_whole(files, tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "organ.zip"
    file.write_bytes(sealed(files))
    install(str(file), str(tmp_path / "deep" / "models"), ignore_versions=True)
    root = tmp_path / "deep" / "models"
    unpacked = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    with zipfile.ZipFile(file) as archive:
        assert {name: path.read_bytes() for name, path in unpacked.items()} == {
            name: archive.read(name) for name in archive.namelist()
        }
    assert [path.name for path in root.iterdir()] == ["organ"]
    assert "organ 1.2.3: 14 files are those of the manifest" in caplog.text
    assert "signature not checked" in caplog.text


def test_installed_bundle_is_replaced_only_on_request(files, tmp_path):
    file, root = tmp_path / "organ.zip", tmp_path / "models"
    file.write_bytes(sealed(files))
    install(str(file), str(root), ignore_versions=True)
    (root / "organ" / "mine.txt").write_text("mine")
    with pytest.raises(ArchiveError, match="organ exists; remove it, choose another --folder, or replace it"):
        install(str(file), str(root), ignore_versions=True)
    install(str(file), str(root), ignore_versions=True, folder="organ_next")
    assert (root / "organ" / "mine.txt").read_text() == "mine"
    install(str(file), str(root), ignore_versions=True, replace=True)
    assert not (root / "organ" / "mine.txt").exists()
    assert sorted(path.name for path in root.iterdir()) == ["organ", "organ_next"]


@pytest.mark.parametrize("folder", ["../out", "a/b", "..", "/tmp"])
def test_folder_elsewhere_is_refused(files, tmp_path, folder):
    (tmp_path / "organ.zip").write_bytes(sealed(files))
    with pytest.raises(ArchiveError, match="is no name of a folder"):
        install(str(tmp_path / "organ.zip"), str(tmp_path / "models"), ignore_versions=True, folder=folder)
    assert not (tmp_path / "models").exists()


def test_installation_that_fails_leaves_what_was_there(files, tmp_path, monkeypatch):
    file, root = tmp_path / "organ.zip", tmp_path / "models"
    file.write_bytes(sealed(files))
    install(str(file), str(root), ignore_versions=True)
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
            install(str(file), str(root), ignore_versions=True, **settings)
        assert [path.name for path in root.iterdir()] == ["organ"]
        assert (root / "organ" / "mine.txt").read_text() == "mine"
    calls.clear()
    with pytest.raises(OutputError):
        install(str(file), str(tmp_path / "new" / "place"), ignore_versions=True)
    assert not (tmp_path / "new").exists()


def test_missing_archive_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.zip does not exist; give a bundle's \.zip file"):
        read_archive(str(tmp_path / "none.zip"))
