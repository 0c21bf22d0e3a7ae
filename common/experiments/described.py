"""Keeps what was measured of the scans of a group, so that a comparison that was ended goes on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDataError
from ..runtime.files import write_atomically

FACTS = "facts"
"""Entry of a file that holds, as JSON, what is told of the scans in words and single numbers."""

Described = dict[str, Any]
"""``case``, ``task``, ``dsc``, and the values of each measure by its name."""


def write_described(cases: Sequence[Described], path: str | Path) -> None:
    """Writes what was measured of scans, without pickling.

    Args:
        cases: What was measured of each scan: arrays, texts and numbers by name.
        path: Path of the npz file.

    Raises:
        OutputError: When it cannot be written.
    """
    facts = [{key: value for key, value in case.items() if not isinstance(value, np.ndarray)} for case in cases]
    arrays = {
        f"{number}|{key}": value
        for number, case in enumerate(cases)
        for key, value in case.items()
        if isinstance(value, np.ndarray)
    }
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{FACTS: np.array(json.dumps(facts))}, **arrays)


def read_described(path: str | Path) -> list[Described] | None:
    """Returns what :func:`write_described` wrote; nothing where there is no such file.

    Raises:
        MissingDataError: When the file cannot be read.
    """
    if not Path(path).is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            cases: list[Described] = json.loads(str(content[FACTS]))
            for name in content.files:
                if name != FACTS:
                    number, _, key = name.partition("|")
                    cases[int(number)][key] = content[name]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise MissingDataError(f"{path} cannot be read ({error}); remove it and run again") from error
    return cases


def same_cases(described: Sequence[Mapping[str, Any]], data: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether something was measured of these very cases.

    Args:
        described: What was measured of scans.
        data: Cases that are asked for.
    """
    return [case["case"] for case in described] == [case["case"] for case in data]


def lacking(described: Sequence[Mapping[str, Any]], measures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the measures that were not taken of every case.

    Args:
        described: What was measured of scans.
        measures: Measure by its name.
    """
    return {name: measure for name, measure in measures.items() if not all(name in case for case in described)}
