"""Writes files so that nothing is ever half written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .interrupts import undisturbed

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that a spreadsheet computes; the last four are the wide forms of the first."""

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-](inf|nan)")
"""A text that is a number and no formula."""


def check_writable(folder: str | Path) -> None:
    """Makes sure that a folder exists and can be written.

    Raises:
        OutputError: When it cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; choose another output_dir or model_dir"
        ) from error


@contextmanager
def write_atomically(path: str | Path, *, announce: Callable[[], None] | None = None) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` and renames it to ``path`` when the block ends without an error.

    The temporary name keeps the suffixes, by which writers choose a format. Folders are created as needed.

    Args:
        path: Path that the file shall have.
        announce: Function called when the file is complete, before it appears; where it fails, the file never appears.
            Nothing is called by default.

    Raises:
        OutputError: When the file cannot be written (disk full, folder not writable); nothing is left behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with undisturbed():
            if announce is not None:
                announce()
            os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another output_dir"
        ) from error
    finally:
        # Where the folder is a file, there is nothing to remove either.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def fingerprint(source: str | Path | Sequence[str | Path]) -> str:
    """Returns a short text that changes when a file is changed, replaced or renamed, without reading it.

    It is made of the size and two times: of the last change of the content, and of the last change of the file itself.
    No program can set the latter back, so copies of a file differ. A file that is missing has a text of its own.

    Args:
        source: Path of a file, or the paths of the files of a series.
    """
    digest = hashlib.sha256()
    for path in [source] if isinstance(source, str | Path) else source:
        try:
            found = os.stat(path)
        except OSError:
            digest.update(b"missing;")
        else:
            digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns};".encode())
    return digest.hexdigest()[:32]


def write_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON; NaN and infinity, which JSON does not have, become null.

    Raises:
        OutputError: When the file cannot be written.
    """
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: str | Path) -> None:
    """Writes rows as CSV with a line of column names; what a row holds beside the columns is left out.

    A text that a spreadsheet would compute is marked as text, see :func:`csv_cell`. Bytes of a file name that are no
    UTF-8 are written as escapes.

    Raises:
        OutputError: When the file cannot be written.
    """
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(csv_line(columns))
        file.writelines(csv_line([row.get(column) for column in columns]) for row in rows)


def csv_line(cells: Sequence[Any]) -> str:
    r"""Returns a line of a CSV with its end; nothing for ``None``, and see :func:`csv_cell`.

    Args:
        cells: Values of the cells of the line.

    Example:
        >>> csv_line(["a", None, 0.5, True, "=1"])
        "a,,0.5,True,'=1\r\n"
    """
    line = io.StringIO(newline="")
    csv.writer(line).writerow([csv_cell(cell) for cell in cells])
    return line.getvalue()


def csv_cell(value: Any) -> Any:
    """Returns what a cell of a CSV holds: a text that begins as a formula gets an apostrophe, numbers stay numbers.

    When a file is opened, spreadsheets compute a cell that begins with ``=``, ``+``, ``-`` or ``@``. They drop a tab or
    a line break before it. Names of files can be such texts.

    Args:
        value: Value of the cell.

    Example:
        >>> csv_cell("=1+1"), csv_cell("-1.5"), csv_cell(-1.5)
        ("'=1+1", '-1.5', -1.5)
    """
    if not isinstance(value, str) or not value.startswith(FORMULA) or NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def plain_json(content: Any) -> Any:
    """The content with ``None`` for numbers that are not finite."""
    if isinstance(content, Mapping):
        return {key: plain_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
