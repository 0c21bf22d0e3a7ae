"""Names the colors of the page, which every kind of color vision tells apart: Okabe and Ito, 2008."""

from __future__ import annotations

BLUE, VERMILION, GRAY = "#0072b2", "#d55e00", "#5a5a5a"
"""In distribution, out of distribution, and neither."""

OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
"""Outlines of classes 1, 2, ...; after the last color comes the first again."""


def rgb(color: str) -> tuple[int, int, int]:
    """Returns a color as three numbers of 0 to 255.

    Example:
        >>> rgb("#e69f00")
        (230, 159, 0)
    """
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
