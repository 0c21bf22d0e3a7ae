"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import OutputError


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` and renames it to ``path`` when the block ends without an error.

    The temporary name keeps the suffixes, by which writers choose a format. Folders are created as needed.

    Args:
        path: where the file shall be.

    Raises:
        OutputError: when the file cannot be written (disk full, folder not writable); nothing is left behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; free space or choose another output_dir"
        ) from error
    finally:
        # Where the folder is a file, there is nothing to remove either.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON.

    Raises:
        OutputError: when the file cannot be written.
    """
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: str | Path) -> None:
    """Writes rows as CSV with a line of column names; what a row holds beside the columns is left out.

    Raises:
        OutputError: when the file cannot be written.
    """
    with write_atomically(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
