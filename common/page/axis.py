"""Places values along an axis of a drawing."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis between two values.

    Args:
        first: Value at the begin of the axis, above 0; smaller ones are placed there.
        last: Value at the end of the axis, above ``first``.
        start: Place of the begin in the drawing.
        end: Place of the end in the drawing.
    """

    first: float
    last: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Returns the place of a value in the drawing."""
        share = math.log(max(value, self.first) / self.first) / math.log(self.last / self.first)
        return round(self.start + share * (self.end - self.start), 1)


def mark(row: int, x: float, y: float, *, outside: bool, color: str, title: str) -> str:
    """Returns a scan: a circle in distribution, a diamond out of it, so that not color alone tells.

    Args:
        row: Index of the scan's row in the table, from 0, which the script follows.
        x: Place from the left.
        y: Place from the top.
        outside: Whether the scan is called out-of-distribution.
        color: Color of the mark.
        title: Text that is shown under the pointer, safe in HTML.
    """
    circle = f"M{x - 4:.1f} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"
    diamond = f"M{x} {y - 6:.1f}l6 6l-6 6l-6 -6z"
    shape = diamond if outside else circle
    return f'<path class="mark" data-row="{row}" d="{shape}" fill="{color}"><title>{title}</title></path>'
