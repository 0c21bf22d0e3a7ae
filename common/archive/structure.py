"""The form of a zip file, checked before anything in it is unpacked or read as what it claims to be."""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections import Counter
from pathlib import PurePosixPath

from ..errors import ArchiveError

MAX_FILES = 5000
"""Most files an archive may hold."""

MAX_BYTES = 2**30
"""Most bytes an archive may hold, unpacked."""

MAX_RATIO = 200
"""Most bytes that one compressed byte may unpack to; text and weights stay far below, bombs far above."""

MAX_NAME = 200
"""Most characters of a name, folders included."""

SUFFIXES = (".conf", ".csv", ".json", ".md", ".npz", ".png", ".pt", ".py", ".txt")
"""Kinds of files a bundle consists of; ``LICENSE`` has none."""

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_END_RECORD_SIZE = 22
_LOCAL_HEADER_SIZE = 30


def open_zip(content: bytes, where: str) -> zipfile.ZipFile:
    """Returns the zip file, after checks that need nothing but its directory.

    Args:
        content: the whole file; checks and unpacking see the same bytes, whoever writes to the disk meanwhile.
        where: what a message calls the file.

    Raises:
        ArchiveError: when it is no complete zip file, or holds links, escaping or repeated names, encrypted files,
            hidden data, other kinds of files than bundles have, or more than an honest bundle would.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, EOFError, OverflowError) as error:
        raise ArchiveError(f"{where} is no complete zip file ({error}); copy it again") from error
    entries = archive.infolist()
    _check_amount(entries, where)
    for entry in entries:
        _check_entry(entry, where)
    _check_names([entry.filename for entry in entries], where)
    _check_gaps(archive, content, where)
    return archive


def ends_with_record(archive: zipfile.ZipFile, content: bytes) -> bool:
    """Returns whether nothing follows the directory of a zip file, not even a comment.

    Args:
        archive: the zip file.
        content: all of its bytes.
    """
    return not archive.comment and content[-_END_RECORD_SIZE:][:4] == b"PK\5\6"


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> bytes:
    """Returns the content of one file; no more bytes than the directory announces are ever unpacked.

    Args:
        archive: the zip file.
        entry: the file in its directory.
        where: what a message calls the zip file.

    Raises:
        ArchiveError: when the content is damaged or contradicts the directory.
    """
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{where}: {entry.filename} is damaged ({error}); copy the archive again") from error


def _check_amount(entries: list[zipfile.ZipInfo], where: str) -> None:
    """Refuses what would fill a disk or a memory."""
    total = sum(entry.file_size for entry in entries)
    if not entries:
        raise ArchiveError(f"{where} is an empty zip file; expected is the archive of a bundle")
    if len(entries) > MAX_FILES or total > MAX_BYTES:
        raise ArchiveError(
            f"{where} would unpack to {len(entries)} files of {total} bytes; accepted are {MAX_FILES} files and "
            f"{MAX_BYTES} bytes: it is no bundle"
        )
    for entry in entries:
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 4096:
            raise ArchiveError(
                f"{where}: {entry.filename!r} would unpack {entry.compress_size} to {entry.file_size} bytes; at most "
                f"{MAX_RATIO} times as many are accepted: it is a bomb"
            )


def _check_entry(entry: zipfile.ZipInfo, where: str) -> None:
    """Refuses a file that is more than a plain file with a plain name."""
    name = entry.orig_filename
    if len(name) > MAX_NAME:
        raise ArchiveError(f"{where}: a name has {len(name)} characters, at most {MAX_NAME} are accepted")
    if not all(_PART.fullmatch(part) and not part.endswith(".") for part in name.split("/")):
        raise ArchiveError(
            f"{where}: the name {name!r} is not accepted; names are relative, without '..', of letters, digits, '.', "
            "'_' and '-': it is no archive of a bundle"
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ArchiveError(f"{where}: {name} is a link or a device; only plain files are accepted")
    if entry.flag_bits & 0x1:
        raise ArchiveError(f"{where}: {name} is encrypted; only plain files are accepted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{where}: {name} is compressed by method {entry.compress_type}; accepted is deflate")
    path = PurePosixPath(name)
    if path.suffix not in SUFFIXES and path.name != "LICENSE":
        raise ArchiveError(
            f"{where}: {name} is of a kind that bundles do not have; accepted are LICENSE and {', '.join(SUFFIXES)}"
        )


def _check_names(names: list[str], where: str) -> None:
    """Refuses names of which one would overwrite another, on any file system, and more than one top folder."""
    folded = [name.casefold() for name in names]
    counts = Counter(folded)
    repeated = next((name for name, low in zip(names, folded, strict=True) if counts[low] > 1), None)
    if repeated:
        raise ArchiveError(f"{where}: {repeated} is there more than once; one of them would hide the other")
    folders = {str(parent) for low in folded for parent in PurePosixPath(low).parents}
    clash = next((name for name, low in zip(names, folded, strict=True) if low in folders), None)
    if clash:
        raise ArchiveError(f"{where}: {clash} is a file and a folder at once")
    tops = {name.split("/")[0] for name in names}
    if len(tops) != 1 or any("/" not in name for name in names):
        raise ArchiveError(f"{where} holds {sorted(tops)[:3]} at its top; accepted is one folder, the bundle's")


def _check_gaps(archive: zipfile.ZipFile, content: bytes, where: str) -> None:
    """Refuses data before, between, within one another's, or after the files: nothing may hide in an archive."""
    if not ends_with_record(archive, content):
        raise ArchiveError(f"{where} holds data after its last file; copy it again")
    position = 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        if entry.header_offset != position or entry.extra or entry.comment or entry.flag_bits & 0x8:
            raise ArchiveError(f"{where}: {entry.filename} overlaps another file or follows hidden data; copy it again")
        position += _LOCAL_HEADER_SIZE + len(entry.orig_filename.encode()) + entry.compress_size
    if position != archive.start_dir:
        raise ArchiveError(f"{where} holds hidden data before its directory; copy it again")
