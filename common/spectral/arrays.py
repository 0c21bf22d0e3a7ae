"""Names the arrays of a bank's file and the types they must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import BankError
from .settings import BankSettings

VERSION = 4
"""Version of the files that are written; those of version 1 hold neither calibration, quality nor ranges."""

LATER_SETTINGS = {"signature_form": 2, "sigmoid": 3}
"""Settings by the version that brought them; signatures of earlier ones are of the default."""

NUMBERS = ("signatures", "leave_one_out", "threshold", "c")
"""Numbers that every bank holds."""

EMPTY: dict[str, Any] = {
    "quality_oodm": np.empty(0),
    "quality_dice": np.empty(0),
    "quality_edges": np.empty(0),
    "quality_margins": np.empty(0),
    "quality_coverage": np.asarray(np.nan),
    "uncertainty_score": np.empty(0),
    "uncertainty_dice": np.empty(0),
    "uncertainty_edges": np.empty(0),
    "uncertainty_margins": np.empty(0),
    "uncertainty_coverage": np.asarray(np.nan),
    "may_be_empty": np.asarray(False),
    "property_names": np.empty(0, dtype="<U1"),
    "property_limits": np.empty((0, 2)),
    "property_planes": np.empty(0, dtype="<U1"),
    "property_modalities": np.empty(0, dtype="<U1"),
    "layer_sizes": np.empty(0, dtype=np.int64),
    "layer_spreads": np.empty((0, 2)),
}
"""Arrays of what a bank need not hold, as they are without it."""

LATER_ARRAYS = {name: 4 for name in EMPTY if name.startswith(("uncertainty_", "may_be_"))}
"""Arrays by the version that brought them, where that is not the second."""

DIMENSIONS = {"calibration": 1, "calibration_signatures": 2, "calibration_weights": 1, "false_alarm_rate": 0} | {
    name: array.ndim for name, array in EMPTY.items()
}
"""Dimensions of the arrays that version 2 and later have beside those of version 1."""


def check_arrays(content: Mapping[str, Any]) -> None:
    """Makes sure that a file holds the arrays of a bank, of the types they must have.

    Args:
        content: Arrays of the file, by name.

    Raises:
        BankError: When one is missing, too many, or of another type.
    """
    version = int(content["version"])
    settings = {field.name for field in fields(BankSettings) if LATER_SETTINGS.get(field.name, 1) <= version}
    later = {name for name in DIMENSIONS if LATER_ARRAYS.get(name, 2) <= version}
    expected = {*NUMBERS, "version", *settings, *later}
    if not 1 <= version <= VERSION or set(content) != expected:
        raise BankError(f"this is not a signature bank of version 1 to {VERSION}")
    kinds = {name: EMPTY[name].dtype.kind if name in EMPTY else "f" for name in DIMENSIONS if name in content}
    for name, kind in (dict.fromkeys(NUMBERS, "f") | kinds).items():
        found = content[name].dtype
        if found.kind != kind or (kind == "f" and found != np.float64):
            raise BankError("its numbers are not of double precision" if kind == "f" else f"{name} is of another type")
        if content[name].ndim != DIMENSIONS.get(name, content[name].ndim):
            raise BankError(f"{name} has {content[name].ndim} dimension(s)")
