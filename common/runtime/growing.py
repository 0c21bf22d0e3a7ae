"""Appends to text files that grow while a run goes on, and are whole after every entry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError
from .files import write_atomically


class GrowingFile:
    """A text file of entries between a head and a tail, such as a list in JSON.

    An entry at the end costs no more than itself, however many there are. It is written over the tail, with the tail
    behind it, in one piece. Where that fails, as on a full disk, the file stays as it was. All else writes the whole
    file anew, under another name first.

    Args:
        path: Path of the file.
        head: Text before the entries; empty by default.
        separator: Text between two entries; empty by default.
        tail: Text after the entries, no longer than the separator with the shortest entry; empty by default.
    """

    def __init__(self, path: Path, *, head: str = "", separator: str = "", tail: str = "") -> None:
        self.path, self.head, self.separator, self.tail = path, head, separator, tail
        self._size = -1
        self._empty = True

    def write(self, entries: Sequence[str]) -> None:
        """Writes the whole file.

        Raises:
            OutputError: When it cannot be written.
        """
        content = encode(self.head + self.separator.join(entries) + self.tail)
        with write_atomically(self.path) as temporary:
            temporary.write_bytes(content)
        self._size, self._empty = len(content), not entries

    def append(self, entry: str) -> bool:
        """Writes one more entry.

        Returns:
            Whether it was written; not where the file is not the one that was written last, so that it must be written
            as a whole.

        Raises:
            OutputError: When there is no room; the file is as it was.
        """
        tail = encode(self.tail)
        added = encode(("" if self._empty else self.separator) + entry)
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(error) from error
        try:
            if os.fstat(descriptor).st_size != self._size:
                return False
            self._replace_tail(descriptor, self._size - len(tail), added + tail)
        finally:
            os.close(descriptor)
        self._size, self._empty = self._size + len(added), False
        return True

    def _replace_tail(self, descriptor: int, place: int, content: bytes) -> None:
        """Writes from a place to the end, or leaves the file as it was."""
        try:
            written = os.pwrite(descriptor, content, place)
            while written < len(content):
                # A disk that becomes full takes a part first.
                written += os.pwrite(descriptor, content[written:], place + written)
        except OSError as error:
            os.pwrite(descriptor, encode(self.tail), place)
            os.ftruncate(descriptor, self._size)
            raise self._error(error) from error

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self.path}: {error.strerror}; free space or choose another output_dir")


def encode(text: str) -> bytes:
    """Returns a text as UTF-8; what names of files hold beside UTF-8 becomes escapes."""
    return text.encode("utf-8", "backslashreplace")
