"""Reads a signature bank once for all that ask for it, while its file is the same."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .bank import SignatureBank


def read_bank(path: str | Path) -> SignatureBank:
    """Returns what :meth:`SignatureBank.load` does; a file that has not changed is read and fitted once in a process.

    Args:
        path: Path of the bank.

    Raises:
        MissingDataError: When there is no such file.
        BankError: When it is truncated, of another kind or contradicts itself.
    """
    if not Path(path).is_file():
        return SignatureBank.load(path)
    status = Path(path).stat()
    return _read(str(Path(path).absolute()), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read(path: str, _modified: int, _size: int) -> SignatureBank:
    """The bank of a file of this time and size."""
    return SignatureBank.load(path)
