"""Names colors and sizes of all pictures, which every kind of color vision tells apart: Okabe and Ito, 2008."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sized
from typing import Literal

BLUE, VERMILION, GRAY = "#0072b2", "#d55e00", "#5a5a5a"
"""In distribution, out of distribution, and neither."""

OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
"""Outlines of classes 1, 2, ...; after the last color comes the first again."""

AREAS = (*OUTLINES, "#7a5400", "#a6dcfa", "#00503a", "#8a8200", "#6b2f52", "#ffb27f", "#7fc4ee")
"""Areas of classes 1, 2, ...; from the eighth on, darker and lighter ones."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Lines, bars and points on white; after the last color, lines are dashed."""

Dashes = Literal["-", "--", ":"]
DASHES: tuple[Dashes, ...] = ("-", "--", ":")
MARKERS = ("o", "^", "s", "D")
SMALL, TINY = "small", "x-small"
"""Sizes of legends and titles, and of what must be smaller."""

SCORES, SHARES = "inferno", "cividis"
"""Maps of colors for scores of voxels, and for figures between 0 and 1."""

DPI = 120
FEW, BESIDE = 30, 6
"""Largest numbers of points that a line shows one by one, and of names in a legend that stands inside the axes."""


def rgb(color: str) -> tuple[int, int, int]:
    """Returns a color as three numbers of 0 to 255.

    Example:
        >>> rgb("#e69f00")
        (230, 159, 0)
    """
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def area_color(number: int) -> str:
    """Returns the color of the area of a class.

    Args:
        number: Number of the class, from 1 on.
    """
    return AREAS[(number - 1) % len(AREAS)]


def outline_look(number: int) -> tuple[str, Dashes]:
    """Returns color and dashes of the outline of a class; from the eighth class on, lines are dashed.

    Args:
        number: Number of the class, from 1 on.

    Example:
        >>> outline_look(1), outline_look(8)
        (('#e69f00', '-'), ('#e69f00', '--'))
    """
    turn, place = divmod(number - 1, len(OUTLINES))
    return OUTLINES[place], DASHES[turn % len(DASHES)]


def marker(points: Sized) -> str:
    """Returns the marker of a line's points, none for many of them."""
    return "o" if len(points) <= FEW else ""


def wrap(text: str, width: int) -> str:
    """Returns text in lines of at most ``width`` characters, also where it has no spaces.

    Example:
        >>> print(wrap("patient_0001_slice", 10))
        patient_00
        01_slice
    """
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""])


def log_ticks(low: float, high: float, *, number: int = 7) -> list[float]:
    """Returns round places along a logarithmic axis, so few that their numbers do not touch.

    Args:
        low: Left end of the axis, above 0.
        high: Right end of the axis, at least ``low``.
        number: Largest number of places, at least 2. Default 7.

    Example:
        >>> log_ticks(0.004, 0.3)
        [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [place for power in powers for step in steps if low <= (place := float(f"{step}e{power}")) <= high]
        if len(found) <= number:
            return found
    return found[:: math.ceil(len(found) / number)]
