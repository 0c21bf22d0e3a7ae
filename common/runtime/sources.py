"""Finds the files that hold a scan: which may be opened, which hold their voxels elsewhere, how a reader opens them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ImageError
from .listing import NO_FILE

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".mgz", ".mha", ".mhd", ".nrrd", ".nhdr")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgz")
"""Files that nibabel reads, and not ITK."""

META_SUFFIXES, NRRD_SUFFIXES, PAIR_SUFFIXES = (".mha", ".mhd"), (".nrrd", ".nhdr"), (".hdr", ".img")

HEADER_BYTES = 1 << 20
"""Longest text of a header that is searched for the name of another file."""

META_KEY = re.compile(rb"elementdatafile", re.IGNORECASE)
META_FIELD = re.compile(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)")
NRRD_FIELD = re.compile(rb"[\r\n]\s*data[\s_]*file\s*:([^\r\n]*)", re.IGNORECASE)

OUTSIDE = "; put the voxels into one file beside the header, or convert the scan to .nii.gz"


def check_source(path: str | Path, where: str) -> None:
    """Makes sure that a file may be opened, and that it names no other file but one beside it.

    Args:
        path: Path of an image or a label.
        where: Name of the file in messages.

    Raises:
        ImageError: When it is no regular file (a pipe could be waited for forever), or its voxels lie elsewhere.
    """
    if not os.path.isfile(path):
        reason = NO_FILE if os.path.lexists(_no_null(path)) else "no such file"
        raise ImageError(f"{where} cannot be read ({reason}); copy the file there, or correct dataset.json")
    data_file(path, where)


def data_file(path: str | Path, where: str = "") -> str | None:
    """Returns the file that holds the voxels of a header, ``None`` where they are in the file itself.

    Accepted is a file in the folder of the header alone: a header that names any other makes a reader open what its
    author likes. What readers would take for such a name in any way counts, so that none of them knows a further one.

    Args:
        path: Path of an image.
        where: Name of the image in messages; its path by default.

    Raises:
        ImageError: When the voxels lie elsewhere, in several files, or nowhere.
    """
    source, where = os.fspath(path), where or str(path)
    if source.lower().endswith(PAIR_SUFFIXES):
        return _pair(source, where)
    if source.lower().endswith((*META_SUFFIXES, *NRRD_SUFFIXES)):
        name = named_file(source, where)
        return None if name is None else _beside(source, name, where)
    return None


def _no_null(path: str | Path) -> str:
    """A path without the character that no path holds."""
    return os.fspath(path).replace("\0", "")


def _read_start(path: str, where: str) -> bytes:
    """The first bytes of a file."""
    try:
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise ImageError(f"{where} cannot be read ({error.strerror}); make it readable, or copy it again") from error


def _pair(path: str, where: str) -> str:
    """The ``.img`` of a NIfTI header, or of the header of an ``.img``."""
    stem, suffix = os.path.splitext(path)
    header = stem + (".HDR" if suffix.isupper() else ".hdr")
    _beside(path, os.path.basename(header), where)
    start = _read_start(header, where)
    if start[344:348] != b"ni1\0" and start[4:8] != b"ni2\0":
        raise ImageError(
            f"{where} cannot be read (no header of a NIfTI pair); Analyze and other formats do not say which side is "
            "left: convert the scan to .nii.gz with the program that made it"
        )
    return _beside(path, os.path.basename(stem) + (".IMG" if suffix.isupper() else ".img"), where)


def named_file(path: str, where: str) -> bytes | None:
    """Returns what a MetaImage or NRRD header names as the file of its voxels, unchecked; ``None`` for itself.

    Args:
        path: Path of the header.
        where: Name of the image in messages.

    Raises:
        ImageError: When it names several files, or none in the way of its format.
    """
    start = _read_start(path, where)
    if path.lower().endswith(NRRD_SUFFIXES):
        if not start.startswith(b"NRRD"):
            raise ImageError(
                f"{where} cannot be read (no NRRD file); copy it again, or give it the ending of its format"
            )
        text, end, _ = start.partition(b"\n\n")
        if not end and b"\n\r\n" not in start and len(start) == HEADER_BYTES:
            raise ImageError(f"{where} cannot be read (header of more than {HEADER_BYTES} bytes){OUTSIDE}")
        names = NRRD_FIELD.findall(text)
        if len(names) > 1:
            raise ImageError(f"{where} cannot be read (header of {len(names)} data files){OUTSIDE}")
        return names[0].strip() if names else None
    key = META_KEY.search(start)
    field = META_FIELD.match(start, key.start()) if key else None
    if key is None or field is None or start[: key.start()].rstrip(b" \t")[-1:] not in (b"", b"\n"):
        raise ImageError(f"{where} cannot be read (no line 'ElementDataFile = ...' that names its data file){OUTSIDE}")
    return None if field[1].strip().upper() == b"LOCAL" else field[1].strip()


def _beside(path: str, name: str | bytes, where: str) -> str:
    """The file of that name in the folder of another."""
    text = os.fsdecode(name)
    folder = os.path.dirname(path)
    target = os.path.join(folder, text)
    is_list = text.upper().startswith("LIST") or "%" in text
    if not text or is_list or any(letter in '/\\:"\0' for letter in text):
        raise ImageError(f"{where} cannot be read (data file {text!r}; accepted is one in the same folder){OUTSIDE}")
    if not os.path.isfile(target):
        raise ImageError(f"{where} cannot be read (data file {text!r} is missing beside it); copy both files")
    if os.path.dirname(os.path.realpath(target)) != os.path.realpath(folder):
        raise ImageError(
            f"{where} cannot be read (data file {text!r} is a link to another folder); copy the file itself"
        )
    return target


@contextmanager
def readable_path(path: str | Path) -> Iterator[str]:
    """Gives a path by which every reader can open a file: ITK takes no name that is not UTF-8.

    Args:
        path: Path of an image that :func:`check_source` accepts.
    """
    source = os.fspath(path)
    if source.isprintable() or source.lower().endswith(NIBABEL_SUFFIXES):
        yield source
        return
    voxels = data_file(source)
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, f"image{os.path.splitext(source)[1]}")
        os.symlink(os.path.abspath(source), link)
        if voxels:
            os.symlink(os.path.abspath(voxels), os.path.join(folder, os.path.basename(voxels)))
        yield link
