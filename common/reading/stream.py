"""Reads the bytes of a file, decompressed where its name says so."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .limits import damaged

GZIP_SUFFIXES = (".gz", ".mgz")

CHUNK = 2**20
"""Bytes that are read or passed over at a time."""

DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a stream raises that is not what was written, or ends early."""


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Gives the content of a file, which a gzip stream compares with its checksum when it is read to its end.

    Args:
        path: Path of the file.

    Raises:
        ImageError: When it is compressed against its name. The message goes on after the name of the image.
        EOFError: When it is empty.
    """
    compressed = str(path).lower().endswith(GZIP_SUFFIXES)
    with open(path, "rb") as file:
        start = file.read(2)
        if len(start) < 2:
            raise EOFError
        if (start == b"\x1f\x8b") != compressed:
            raise damaged("it is not compressed by gzip" if compressed else "it is compressed, against its name")
        file.seek(0)
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream  # type: ignore[misc]


def read_exactly(stream: BinaryIO, number: int) -> NDArray[np.uint8]:
    """Returns so many bytes of a stream, ``(number,)``, in memory that is taken up as they come.

    Args:
        stream: Binary stream, see :func:`opened`.
        number: Number of bytes to read, at least 0.

    Raises:
        EOFError: When it holds fewer.
    """
    content = np.empty(number, dtype=np.uint8)
    view, done = memoryview(content), 0  # type: ignore[arg-type]
    while done < number:
        count = stream.readinto(view[done : done + CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return content
