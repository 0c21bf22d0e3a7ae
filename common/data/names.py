"""Names cases so that each can be a folder of the results on any file system."""

from __future__ import annotations

import hashlib
import unicodedata
from itertools import chain, count

MAX_BYTES = 200
"""Longest name in bytes of UTF-8; file systems take 255, of which endings and temporary names need some."""

FORBIDDEN = frozenset('<>:"/\\|?*')
"""Characters that Windows does not accept in a file name, beside those that cannot be printed."""

DEVICES = frozenset(
    {"aux", "clock$", "con", "conin$", "conout$", "nul", "prn"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"}
)
"""Names that Windows keeps for devices, with any ending."""

OWN_ENDINGS = (".csv", ".html", ".json", ".jsonl", ".log", ".md", ".npz", ".pt", ".png", ".txt")
"""Endings of the files that a run writes into ``output_dir`` itself, where every case has its folder."""

OWN_FOLDERS = frozenset({"models", "phantoms"})
"""Folders that a run makes in ``output_dir`` itself."""


def safe_name(name: str) -> str:
    """Returns a name that is safe as a folder of the results; an ordinary one stays as it is.

    Letters that a file system or a terminal may not take become ``_``. Dots and spaces at both ends go, and so does
    what is too long. ``scan_`` comes before the name of a device. A name that is changed, or that a file of the run may
    have, gets a digest of itself. So it depends on nothing but the scan's own name.

    Args:
        name: Any text; bytes that are not UTF-8 as ``os.fsdecode`` gives them.

    Returns:
        A name of 1 to 200 bytes in UTF-8.

    Example:
        >>> safe_name("brain_001"), safe_name("..")
        ('brain_001', 'scan_5ec1f7e7')
    """
    cleaned = "".join(letter if letter.isprintable() and letter not in FORBIDDEN else "_" for letter in name)
    cleaned = cleaned.strip(" .")
    if not cleaned or _is_device(cleaned):
        cleaned = f"scan_{cleaned}".strip("_")
    if cleaned == name and not _is_of_the_run(cleaned) and len(cleaned.encode()) <= MAX_BYTES:
        return name
    return with_digest(cleaned, name)


def with_digest(name: str, text: str) -> str:
    """Returns a name with the digest of a text, by which names that would be equal are told apart.

    Args:
        name: A name for which a folder can be made.
        text: Any text, such as a file's name.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return _append(name, f"_{digest}")


def free_name(name: str, taken: set[str]) -> str:
    """Returns the name, with a number where it is taken; it is taken afterwards.

    Args:
        name: A name for which a folder can be made.
        taken: Names that are taken, as :func:`folded` gives them: what some file systems take for one name is one.
    """
    numbered = (_append(name, f"_{number}") for number in count(2))
    free = next(candidate for candidate in chain([name], numbered) if folded(candidate) not in taken)
    taken.add(folded(free))
    return free


def folded(name: str) -> str:
    """Returns a text that is equal for names that differ in case or in the form of their accents alone."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _is_device(name: str) -> bool:
    """Whether Windows takes a name for a device."""
    return name.lower().split(".")[0].rstrip() in DEVICES


def _is_of_the_run(name: str) -> bool:
    """Whether a run may have a file or folder of this name itself."""
    return name.lower().endswith(OWN_ENDINGS) or name.lower() in OWN_FOLDERS


def _append(name: str, ending: str) -> str:
    """A name with an ending, shortened between letters so that both fit."""
    return name.encode()[: MAX_BYTES - len(ending.encode())].decode(errors="ignore") + ending
