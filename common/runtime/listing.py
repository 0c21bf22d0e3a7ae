"""Lists the files of a folder that a run does not use, with the reason, and counts them in the log."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .files import write_json

SKIPPED_FILES = "skipped_files.json"
"""File of the results that lists what a run did not use, and why."""

NO_FILE = "no regular file, or a link to a missing one"
LINK = "link to a folder, which is not followed"


@dataclass(frozen=True)
class Skipped:
    """A file or folder that a run does not use, and why."""

    file: str
    reason: str


def walk_files(folder: str | Path, unseen: list[Skipped]) -> Iterator[str]:
    """Yields every file of a folder and of all folders below it, pipes and links to files among them.

    Args:
        folder: Folder where the search begins.
        unseen: List to which folders are added that are not entered: links, which may form a circle, and unreadable
            ones.
    """

    def remember(error: OSError) -> None:
        unseen.append(Skipped(str(error.filename), f"folder cannot be read ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=remember):
        inside = [Path(place, name) for name in folders]
        unseen += [Skipped(str(path), LINK) for path in inside if path.is_symlink()]
        yield from (str(Path(place, name)) for name in files)


def count_reasons(skipped: Sequence[Skipped]) -> str:
    """Returns how many files were skipped for which reason, the most frequent first; empty when none was.

    Args:
        skipped: Skipped files with their reasons.
    """
    counts = Counter(item.reason for item in skipped)
    return ", ".join(f"{number} x {reason}" for reason, number in counts.most_common())


def describe_path(path: str, root: str | Path, *, shown: bool) -> str:
    """Returns what a listing calls a file or folder.

    Args:
        path: Path of the file or folder.
        root: Folder that the path is given relative to.
        shown: Whether the path is shown. Where it may name a patient, ``path_`` and 16 characters of its SHA-256 stand
            for it, by which someone who knows the path finds it.
    """
    relative = os.path.relpath(path, root)
    if shown:
        return relative
    return f"path_{hashlib.sha256(os.fsencode(relative.replace(os.sep, '/'))).hexdigest()[:16]}"


def write_skipped(skipped: Sequence[Mapping[str, str]], output_dir: str | Path) -> None:
    """Writes ``skipped_files.json``, or removes that of an earlier run where nothing was skipped.

    Args:
        skipped: Mappings with ``file`` and ``reason``, one for each skipped file.
        output_dir: Folder of the results.

    Raises:
        OutputError: When it cannot be written.
    """
    path = Path(output_dir) / SKIPPED_FILES
    if skipped:
        write_json({"skipped": list(skipped)}, path)
        return
    # Where there is no such folder, there is no such file either.
    with suppress(OSError):
        path.unlink(missing_ok=True)


def skipped_note(output_dir: str | Path) -> str:
    """Returns the end of a run's last line of the log: how many files were not used; empty when all were.

    Args:
        output_dir: Folder of the results, in which :func:`write_skipped` wrote.
    """
    path = Path(output_dir) / SKIPPED_FILES
    if not path.is_file():
        return ""
    number = len(json.loads(path.read_text(encoding="utf-8"))["skipped"])
    return f"; {number} file(s) were not used, see {path}"
