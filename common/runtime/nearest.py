"""Suggests the name that a misspelt one was meant to be, for every error on a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, before: str = "") -> str:
    """Returns the end of an error on a name that does not exist: the nearest names, or nothing where none is near.

    Args:
        name: Name that was given, without dashes.
        known: Names that exist.
        before: What stands before a name as it is typed, such as two dashes. Default empty.

    Example:
        >>> did_you_mean("modeldir", ["model_dir", "seed"], before="--")
        '; did you mean --model_dir?'
        >>> did_you_mean("x", ["model_dir"])
        ''
    """
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(before + found for found in near)}?" if near else ""
