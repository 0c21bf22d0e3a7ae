"""Draws the OODM of the training set and of the scans that were judged, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..figures.style import BLUE, GRAY, VERMILION, log_ticks
from .axis import LogAxis, mark
from .words import is_number, number, text

WIDTH, LEFT, RIGHT, TOP, FLOOR, STRIP = 720, 44, 16, 22, 190, 208
"""Places in the drawing: its width, the margins, the foot of the bars, the line of the scans."""

BINS = 30


def draw_histogram(training: NDArray[np.float64], threshold: float, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a histogram of the training cases, each left out in turn, with a mark for every scan below.

    The axis is logarithmic; what lies far below the training cases is at its left end. A mark has the number of its row
    in ``data-row``.

    Args:
        training: OODM of the training cases, ``(K,)``; higher means more abnormal.
        threshold: OODM above which a scan is called out-of-distribution.
        rows: Rows of the report with ``image``, ``oodm`` and ``is_ood``; those without a number have no mark.
    """
    marked = [row["oodm"] for row in rows if is_number(row.get("oodm"))]
    values = np.asarray([*training.tolist(), threshold])
    # A copy of a training case has an OODM of nearly 0, which would push all others to the right end.
    lowest = float(values[values > 0].min(initial=1.0)) / 2
    edges = np.geomspace(lowest, max(*values.tolist(), *marked, lowest) * 1.1, BINS + 1)
    axis = LogAxis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    counts = np.histogram(np.maximum(training, lowest), bins=edges)[0]
    parts = [_bars(counts, edges, axis), _ticks(axis, int(counts.max())), _threshold(axis.at(threshold), threshold)]
    parts += [_mark(index, row, axis) for index, row in enumerate(rows) if is_number(row.get("oodm"))]
    label = f"OODM of {len(training)} training cases, of which the threshold is {number(threshold)}"
    return f'<svg viewBox="0 0 {WIDTH} 262" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _bars(counts: NDArray[np.int64], edges: NDArray[np.float64], axis: LogAxis) -> str:
    """One bar for each bin that is not empty."""
    tallest, bars = max(int(counts.max()), 1), []
    for count, first, last in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            left, height = axis.at(first), count / tallest * (FLOOR - TOP - 14)
            shape = f'x="{left}" y="{FLOOR - height:.1f}" width="{axis.at(last) - left - 1:.1f}" height="{height:.1f}"'
            bars.append(f'<rect {shape} fill="{GRAY}" opacity=".45"><title>{count} training case(s)</title></rect>')
    return "".join(bars)


def _ticks(axis: LogAxis, tallest: int) -> str:
    """Both axes with their words."""
    parts = [f'<path d="M{LEFT} {FLOOR}H{WIDTH - RIGHT}" stroke="#000"/>']
    for value in log_ticks(axis.first, axis.last):
        place = axis.at(value)
        parts.append(f'<path d="M{place} {FLOOR}v5" stroke="#000"/>')
        parts.append(f'<text x="{place}" y="236" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) // 2
    parts.append(f'<text x="{middle}" y="256" text-anchor="middle">OODM (higher: more abnormal)</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP + 20}" text-anchor="end">{tallest}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{FLOOR}" text-anchor="end">0</text>')
    return "".join(parts)


def _threshold(place: float, threshold: float) -> str:
    """The line between the verdicts."""
    side = ("end", place - 5) if place > WIDTH / 2 else ("start", place + 5)
    line = f'<path d="M{place} {TOP - 8}V{STRIP + 8}" stroke="#000" stroke-dasharray="5 4"/>'
    words = f'<text x="{side[1]:.1f}" y="{TOP}" text-anchor="{side[0]}">threshold {number(threshold)}</text>'
    return line + words


def _mark(index: int, row: Mapping[str, Any], axis: LogAxis) -> str:
    """The mark of a scan."""
    outside = bool(row.get("is_ood"))
    title = f"{text(row['image'])}: OODM {number(row['oodm'])}"
    color = VERMILION if outside else BLUE
    return mark(index, axis.at(row["oodm"]), STRIP, outside=outside, color=color, title=title)
