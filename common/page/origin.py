"""Reads when and by which kind of scanner a scan was taken; nothing of the patient."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pydicom

from ..dicom.describe import plain_text
from ..dicom.series import UNREADABLE, quiet_pydicom

DATES = ("AcquisitionDate", "SeriesDate", "ContentDate", "StudyDate")
"""Attributes that hold the day of a scan, the most exact one first."""

SCANNER = ("Manufacturer", "ManufacturerModelName")
Origin = dict[str, str]


def read_origin(source: str | Path | Sequence[str | Path]) -> Origin:
    """Returns ``day``, as ``2024-05-31``, ``dated_by`` and ``scanner`` of a scan; empty texts where nothing tells.

    A DICOM series is ``dated_by`` its ``header``, any other file by the ``file``: by the last change of its content.
    No value of a header raises: what cannot be read is left out.

    Args:
        source: Path of a file, or the paths of the files of a DICOM series.
    """
    if not isinstance(source, str | Path):
        header = _read_header(source[0]) if source else None
        day = next((found for name in DATES if (found := _day(header, name))), "")
        parts = [_text(header, name) for name in SCANNER]
        # Many models repeat the manufacturer.
        scanner = parts[1] if parts[1].lower().startswith(parts[0].lower()) else " ".join(parts)
        return {"day": day, "dated_by": "header" if day else "", "scanner": scanner.strip()}
    try:
        changed = datetime.fromtimestamp(os.stat(source).st_mtime)
    except (OSError, ValueError, OverflowError):
        return {"day": "", "dated_by": "", "scanner": ""}
    return {"day": changed.date().isoformat(), "dated_by": "file", "scanner": ""}


def _read_header(file: str | Path) -> Any:
    """The attributes asked for, and no other; ``None`` where they cannot be read."""
    quiet_pydicom()
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*DATES, *SCANNER])
    except UNREADABLE:
        return None


def _text(header: Any, name: str) -> str:
    """A value as one line; empty where there is none, or it cannot be read."""
    try:
        return plain_text(str(header.get(name) or "")) if header is not None else ""
    except UNREADABLE:
        return ""


def _day(header: Any, name: str) -> str:
    """A date as ``2024-05-31``; empty where the value is none."""
    digits = re.sub(r"\D", "", _text(header, name))[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).isoformat()
    except ValueError:
        return ""
