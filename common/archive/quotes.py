"""Quotes what a file holds in messages, which stay one short line whatever it is."""

from __future__ import annotations

MAX_LETTERS = 60
"""Most characters that are quoted of one name or value."""

MAX_REASON = 160
"""Most characters that are quoted of what a library, or another check, says is wrong."""


def quoted(value: object) -> str:
    """Returns a value as Python writes it, cut where it is long.

    Args:
        value: Name, bytes or number that a file holds.

    Example:
        >>> quoted("organ/a.txt"), quoted(12), len(quoted(bytes(10_000)))
        ("'organ/a.txt'", '12', 60)
    """
    return cut(repr(value))


def cut(text: str, length: int = MAX_LETTERS) -> str:
    """Returns a text on one line, of at most so many characters; dots stand for what is left out.

    Args:
        text: Text to cut, of any number of lines.
        length: Most characters of the result; 60 by default.
    """
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
