"""Checks the form of an archive, before anything in it is read as what it claims to be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from zipfile import BadZipFile

from ..errors import ArchiveError
from .layout import PLAIN, Entry, read_entries, unpack
from .quotes import quoted

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
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever suffix follows."""


def read_files(content: bytes, where: str) -> dict[str, bytes]:
    """Returns the files of an archive: name -> content.

    Args:
        content: Bytes of the whole file; checks and unpacking see the same bytes, whoever writes to the disk meanwhile.
        where: Name of the file in messages.

    Raises:
        ArchiveError: When it is no complete zip file, or holds what no honest bundle does: links, hidden data,
            encrypted files; escaping, reserved or repeated names; other kinds of files, or more than a bundle has.
    """
    try:
        entries = read_entries(content, PLAIN)
        _check_amount(entries, where)
        for entry in entries:
            _check_name(entry.name, where)
        _check_names([entry.name for entry in entries], where)
        return {entry.name: unpack(content, entry, PLAIN) for entry in entries}
    except BadZipFile as error:
        raise ArchiveError(
            f"{where} is no complete zip file as 'make zips' writes it ({error}); it is damaged or was changed: get it "
            "again"
        ) from error


def _check_amount(entries: Sequence[Entry], where: str) -> None:
    """Refuses what would fill a disk or a memory."""
    total = sum(entry.size for entry in entries)
    if not entries:
        raise ArchiveError(f"{where} is an empty zip file; expected is the archive of a bundle")
    if len(entries) > MAX_FILES or total > MAX_BYTES:
        raise ArchiveError(
            f"{where} would unpack to {len(entries)} files of {total} bytes; accepted are {MAX_FILES} files and "
            f"{MAX_BYTES} bytes: it is no bundle"
        )
    for entry in entries:
        if entry.size > MAX_RATIO * max(entry.packed_size, 1) and entry.size > 4096:
            raise ArchiveError(
                f"{where}: {quoted(entry.name)} would unpack {entry.packed_size} to {entry.size} bytes; at most "
                f"{MAX_RATIO} times as many are accepted: it is a bomb"
            )


def _check_name(name: str, where: str) -> None:
    """Refuses a name that means another place or another thing on some file system, or is of another kind of file."""
    if len(name) > MAX_NAME:
        raise ArchiveError(f"{where}: a name has {len(name)} characters, at most {MAX_NAME} are accepted")
    parts = name.split("/")
    if not all(_PART.fullmatch(part) and not part.endswith(".") for part in parts):
        raise ArchiveError(
            f"{where}: the name {quoted(name)} is not accepted; names are relative, without '..', of letters, digits, "
            "'.', '_' and '-': it is no archive of a bundle"
        )
    if any(_RESERVED.fullmatch(part) for part in parts):
        raise ArchiveError(
            f"{where}: the name {quoted(name)} is not accepted; Windows takes it for a device: rename the file"
        )
    path = PurePosixPath(name)
    if path.suffix not in SUFFIXES and path.name != "LICENSE":
        raise ArchiveError(
            f"{where}: {name} is of a kind that bundles do not have; accepted are LICENSE and {', '.join(SUFFIXES)}"
        )


def _check_names(names: Sequence[str], where: str) -> None:
    """Refuses names of which one would overwrite another, on any file system, and more than one top folder."""
    counts = Counter(name.casefold() for name in names)
    repeated = next((name for name in names if counts[name.casefold()] > 1), None)
    if repeated:
        raise ArchiveError(f"{where}: {repeated} is there more than once; one of them would hide the other")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    folded = Counter(folder.casefold() for folder in folders)
    clash = next((name for name in names if name.casefold() in folded), None)
    if clash:
        raise ArchiveError(f"{where}: {clash} is a file and a folder at once")
    tops = {name.split("/")[0] for name in names}
    if len(tops) != 1 or any("/" not in name for name in names):
        raise ArchiveError(f"{where} holds {quoted(sorted(tops)[:3])} at its top; accepted is one folder, the bundle's")
    mixed = next((folder for folder in sorted(folders) if folded[folder.casefold()] > 1), None)
    if mixed:
        raise ArchiveError(f"{where}: the folder {mixed} is there in two spellings, which some systems take for one")
