"""Turns values into text that is safe in HTML."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..runtime.tables import number_text


def text(value: Any) -> str:
    """Returns a value as text for HTML and its attributes; nothing for ``None``.

    Example:
        >>> text("<b>"), text(None)
        ('&lt;b&gt;', '')
    """
    return "" if value is None else html.escape(str(value), quote=True)


BREAKS = re.compile(r"(?<=[_/\\])|(?<=[^\W_]-)(?!\d)|(?<=[^\W_]\.)(?!\d+(?![\d.]))(?=\S)")
"""Places after a separator of a name where a line may end; none of them is inside a number."""


def breakable(value: Any) -> str:
    """Returns a name as :func:`text`, whose lines may end after its separators and nowhere else.

    Example:
        >>> breakable("scan_004_noise_0.6"), breakable("1.2.840")
        ('scan_<wbr>004_<wbr>noise_<wbr>0.6', '1.<wbr>2.840')
    """
    return "" if value is None else "<wbr>".join(map(text, BREAKS.split(str(value))))


def number(value: Any) -> str:
    """Returns a number with four significant digits, as the log has it; nothing for what is none or not finite.

    Example:
        >>> number(0.25), number(None)
        ('0.2500', '')
    """
    return number_text(value) if is_number(value) else ""


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def kinds(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what a row is: ``out``, ``in`` or ``none``, by its verdict, and ``failed`` where it has an error.

    Args:
        row: Row of the report with ``is_ood`` and ``error``.
    """
    verdict = {None: "none", True: "out", False: "in"}[row.get("is_ood")]
    return (verdict, "failed") if row.get("error") else (verdict,)
