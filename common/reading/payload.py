"""Counts the voxels of MetaImage and NRRD files and verifies their checksum: ITK fills what is damaged with zeros."""

from __future__ import annotations

import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..runtime.sources import META_SUFFIXES, named_file
from .limits import damaged

MAX_HEADER = 2**20
"""Most bytes of a header in text."""

CHUNK = 2**20
"""Bytes that are read and decompressed at a time."""


GEOMETRY = (
    "elementspacing", "elementsize", "offset", "origin", "position", "transformmatrix", "rotation", "orientation",
)  # fmt: skip
"""Fields of a MetaImage that say where it lies, in lower case."""


@dataclass(frozen=True)
class Payload:
    """Where the voxels of a file are.

    Args:
        file: Path of the file that holds the voxels.
        start: Byte of the file at which they begin, at least 0.
        codec: ``raw``, ``zlib`` (which includes gzip), or empty for text and for what only ITK reads.
    """

    file: Path
    start: int
    codec: str


def check_payload(path: str | Path, size: int) -> None:
    """Makes sure that a MetaImage or NRRD file holds as many bytes of voxels as its header declares, undamaged.

    Of other formats nothing is checked.

    Args:
        path: Path of the file, which ``check_source`` accepts: where its voxels lie is not judged here.
        size: Number of bytes of voxels that the header declares, decompressed.

    Raises:
        ImageError: When it holds fewer or more, or its checksum does not agree. The message goes on after the name
            of the image.
    """
    payload = find_payload(Path(path))
    if payload is None or not payload.codec:
        return
    held = payload.file.stat().st_size - payload.start if payload.codec == "raw" else _inflated_size(payload, size)
    if held < size:
        raise damaged("it ends early")
    if held > size:
        raise ImageError("holds more than the voxels that its header declares; copy it again, or save it anew")


def find_payload(path: Path) -> Payload | None:
    """Returns where the voxels of a MetaImage or NRRD file are, ``None`` for other formats.

    Raises:
        ImageError: When the header cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(MAX_HEADER)
    if head.startswith(b"NRRD0"):
        return _nrrd_payload(path, head)
    return _meta_payload(path, head) if path.suffix.lower() in META_SUFFIXES else None


def _nrrd_payload(path: Path, head: bytes) -> Payload:
    """As :func:`find_payload`, of NRRD: an empty line ends the header."""
    end = re.search(rb"\r?\n\r?\n", head)
    fields = _fields(head[: end.start()] if end else head, b":")
    if any(fields.get(name, "0") not in ("0", "") for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise ImageError("skips a part of its data; save it anew as one .nrrd file")
    encoding = fields.get("encoding", "").lower()
    codec = {"raw": "raw", "gzip": "zlib", "gz": "zlib"}.get(encoding, "")
    if other := named_file(str(path), str(path)):
        return Payload(path.parent / os.fsdecode(other), 0, codec)
    if end is None:
        raise damaged("its header does not end")
    return Payload(path, end.end(), codec)


def _meta_payload(path: Path, head: bytes) -> Payload:
    """As :func:`find_payload`, of MetaImage: the line that names the file of the voxels ends the header."""
    end = re.search(rb"^ElementDataFile\s*=[^\n]*(\n|$)", head, re.M)
    if end is None:
        raise damaged("its header does not end")
    fields = _fields(head[: end.end()], b"=")
    if fields.get("headersize", "0") != "0":
        raise ImageError("skips a part of its data; save it anew as one .mha file")
    _check_geometry(fields)
    codec = "zlib" if fields.get("compresseddata", "").lower() == "true" else "raw"
    if fields.get("binarydata", "true").lower() == "false":
        codec = ""
    other = named_file(str(path), str(path))
    return Payload(path.parent / os.fsdecode(other), 0, codec) if other else Payload(path, end.end(), codec)


def _check_geometry(fields: dict[str, str]) -> None:
    """Raises when a number that places a MetaImage is none: ITK would take it for 0."""
    for name in GEOMETRY:
        try:
            numbers = [float(number) for number in fields.get(name, "").split()]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise ImageError(f"has a geometry that is not finite ({name}); save it with valid numbers")


def _fields(text: bytes, separator: bytes) -> dict[str, str]:
    """The lines ``name: value`` of a header, names in lower case."""
    pairs = [line.partition(separator) for line in text.splitlines() if not line.startswith(b"#")]
    return {
        name.strip().decode("utf-8", "replace").lower(): value.strip(b" \t=").decode("utf-8", "replace")
        for name, mark, value in pairs
        if mark
    }


def _inflated_size(payload: Payload, limit: int) -> int:
    """Bytes that a compressed stream holds, or a number above ``limit`` as soon as it holds more than that."""
    # 32 more than the largest window: zlib and gzip are told apart by their first bytes.
    stream = zlib.decompressobj(32 + zlib.MAX_WBITS)
    held = 0
    try:
        with open(payload.file, "rb") as file:
            file.seek(payload.start)
            while not stream.eof:
                chunk = stream.unconsumed_tail or file.read(CHUNK)
                part = stream.decompress(chunk, CHUNK)
                held += len(part)
                if held > limit:
                    return held
                if not chunk and not part:
                    raise damaged("it ends early")
            if stream.unused_data or file.read(1):
                return limit + 1
    except zlib.error as error:
        raise damaged("its compressed content is not what was written") from error
    return held
