"""Archives that somebody broke, by accident or on purpose: each is refused and leaves nothing behind."""

import importlib
import io
import stat
import zipfile

import pytest

from common.archive import read_archive, structure
from common.archive.build import FIXED_TIME, _zip
from common.errors import ArchiveError, MissingDataError

verify = importlib.import_module("common.archive.verify")  # its package has a function of this name


def entry(name, mode=0o644, content=b"x", method=zipfile.ZIP_DEFLATED):
    info = zipfile.ZipInfo(name, FIXED_TIME)
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
    "letter that looks like another": (entry("organ/configs/inf\u0435rence.json"), "is 2048, expected is 0"),
    "accent": (entry("organ/caf\u00e9.txt"), "is 2048, expected is 0"),
    "line break in a name": (entry("organ/a\nb.txt"), "is not accepted"),
    "escape sequence in a name": (entry("organ/a\x1b[2J.txt"), "is not accepted"),
    "zero in a name": (entry("organ/a.txt\0.txt"), "is not accepted"),
    "dot at the end": (entry("organ/train.json."), "is not accepted"),
    "dot at the end of a folder": (entry("organ/configs./train.json"), "is not accepted"),
    "space at the end": (entry("organ/train.json "), "is not accepted"),
    "stream of a file": (entry("organ/train.json:hidden.txt"), "is not accepted"),
    "short name of another file": (entry("organ/TRAIN~1.txt"), "is not accepted"),
    "empty part of a path": (entry("organ//a.txt"), "is not accepted"),
    "folder entry": (entry("organ/empty/"), "is not accepted"),
    "symbolic link": (
        entry("organ/link.txt", stat.S_IFLNK | 0o777, b"/etc/passwd"),
        "attributes (link, folder or device among them) of 'organ/link.txt'",
    ),
    "device": (
        entry("organ/device.txt", stat.S_IFCHR | 0o600),
        "attributes (link, folder or device among them) of 'organ/device.txt'",
    ),
    "second top folder": (entry("other/a.txt"), "holds ['organ', 'other'] at its top"),
    "file beside the folder": (entry("a.txt"), "at its top; accepted is one folder"),
    "file that is a folder elsewhere": (entry("organ/configs/train.json/a.txt"), "is a file and a folder at once"),
    "library": (entry("organ/scripts/fast.so"), "fast.so is of a kind that bundles do not have"),
    "pickle by name": (entry("organ/models/model.pkl"), "model.pkl is of a kind that bundles do not have"),
    "program": (entry("organ/a.txt", 0o755), "attributes (link, folder or device among them) of 'organ/a.txt'"),
    "unusual compression": (entry("organ/a.txt", method=zipfile.ZIP_BZIP2), "expected is 788"),
    "no compression": (entry("organ/a.txt", method=zipfile.ZIP_STORED), "compression method of 'organ/a.txt' is 0"),
    "bomb": (
        entry("organ/a.txt", content=bytes(10**6), method=zipfile.ZIP_DEFLATED),
        "to 1000000 bytes; at most 200 times as many are accepted: it is a bomb",
    ),
    "endless name": (entry("a/" * 500 + "n.txt"), "a name has 1005 characters, at most 200 are accepted"),
    "file of nobody's manifest": (entry("organ/extra.py"), "extra.py is not in the manifest"),
}


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.tried(
    "Archives and weights",
    "Paths that climb out, absolute paths, links, devices, names that systems read in another way",
    "Refused.",
)
def test_hostile_entry_is_refused(files, refuse, kind):
    added, text = ENTRIES[kind]
    assert text in refuse(with_entries(files, added))


REPEATED = "is there more than once; one of them would hide the other"


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns while the test writes it
def test_repeated_name_is_refused(files, refuse):
    assert REPEATED in refuse(with_entries(files, entry("organ/LICENSE", content=b"other")))


def test_name_repeated_for_file_systems_that_ignore_case_is_refused(files, refuse):
    assert REPEATED in refuse(with_entries(files, entry("organ/license.txt"), entry("organ/LICENSE.txt")))


def test_folder_in_two_spellings_is_refused(files, refuse):
    added = with_entries(files, entry("organ/Configs/more.json"))
    assert "the folder organ/Configs is there in two spellings" in refuse(added)


@pytest.mark.parametrize("device", ["con", "PRN", "Aux", "nul", "COM1", "lpt9", "com0"])
@pytest.mark.tried("Archives and weights", "Names that Windows keeps for devices", "Refused.")
def test_name_that_windows_takes_for_a_device_is_refused(files, refuse, device):
    for name in (f"{device}.txt", f"{device}.tar.txt", f"{device}/a.txt"):
        assert "Windows takes it for a device: rename the file" in refuse(with_entries(files, entry(f"organ/{name}")))


@pytest.mark.parametrize("name", ["console.txt", "com10.txt", "con_1.txt", "a.con.txt", "nullable/a.txt"])
def test_name_that_only_looks_like_a_device_is_accepted(name):
    content = with_entries({}, entry(f"organ/{name}"))
    assert structure.read_files(content, "organ.zip") == {f"organ/{name}": b"x"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_archive_is_refused(files, refuse, share):
    content = _zip(files)
    assert "is no complete zip file" in refuse(content[: int(share * len(content))])


def test_anything_else_is_refused(refuse):
    for content in (b"no archive at all", b"PK\3\4" + bytes(100)):
        assert "is no complete zip file" in refuse(content)
    assert "is an empty zip file" in refuse(_zip({}))


def test_entry_listed_twice_is_refused(files, refuse):
    buffer = io.BytesIO(_zip(files))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.filelist.append(archive.filelist[0])
        archive._didModify = True
    assert "is no complete zip file" in refuse(buffer.getvalue())


@pytest.mark.tried(
    "Archives and weights",
    "Bombs: too many files, or too many bytes",
    "Refused before they are unpacked.",
)
def test_too_much_is_refused(files, refuse, monkeypatch):
    assert (structure.MAX_FILES, structure.MAX_BYTES, structure.MAX_RATIO) == (5000, 1024**3, 200)
    monkeypatch.setattr(structure, "MAX_FILES", 10)
    assert "accepted are 10 files" in refuse(_zip(files))
    monkeypatch.setattr(structure, "MAX_FILES", 1000)
    monkeypatch.setattr(structure, "MAX_BYTES", 1000)
    assert "1000 bytes: it is no bundle" in refuse(_zip(files))


def test_small_entries_may_be_packed_as_tightly_as_they_can():
    # 4096 equal bytes would be allowed any ratio; one byte more, the greatest alone.
    assert structure.read_files(with_entries({}, entry("organ/a.txt", content=bytes(4096))), "organ.zip")


@pytest.mark.parametrize(("beyond", "refused"), [(0, False), (1, True)])
def test_packed_as_tightly_as_accepted(refuse, monkeypatch, beyond, refused):
    content = with_entries({}, entry("organ/a.txt", content=bytes(4097)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        packed = archive.getinfo("organ/a.txt").compress_size
    monkeypatch.setattr(structure, "MAX_RATIO", (4097 - beyond) / packed)
    if refused:
        assert "it is a bomb" in refuse(content)
    else:
        assert structure.read_files(content, "organ.zip").keys() == {"organ/a.txt"}


def test_as_much_as_accepted(files, refuse, monkeypatch):
    content = _zip(files)
    monkeypatch.setattr(structure, "MAX_FILES", len(files))
    monkeypatch.setattr(structure, "MAX_BYTES", sum(map(len, files.values())))
    assert structure.read_files(content, "organ.zip").keys() == files.keys()
    monkeypatch.setattr(structure, "MAX_BYTES", sum(map(len, files.values())) - 1)
    assert "it is no bundle" in refuse(content)


def test_file_as_large_as_accepted(files, tmp_path, monkeypatch):
    path = tmp_path / "organ.zip"
    path.write_bytes(_zip(files))
    for limit, words in ((path.stat().st_size, None), (path.stat().st_size - 1, "an archive has at most")):
        monkeypatch.setattr(verify, "MAX_BYTES", limit)
        if words is None:
            read_archive(str(path))
        else:
            with pytest.raises(ArchiveError, match=words):
                read_archive(str(path))


def test_damaged_content_is_refused(files, refuse):
    content = bytearray(_zip(files))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo("organ/models/model.pt")
    content[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    assert "is no complete zip file" in refuse(bytes(content))


def test_missing_archive_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.zip does not exist; give a bundle's \.zip file"):
        read_archive(str(tmp_path / "none.zip"))
