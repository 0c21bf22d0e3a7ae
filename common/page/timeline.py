"""Draws the OODM of scans by day and scanner, as a control chart in SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..figures.style import BLUE, GRAY, VERMILION, log_ticks
from .axis import LogAxis, mark
from .words import is_number, number, text

WIDTH, LEFT, RIGHT, TOP, FLOOR, HEIGHT = 720, 58, 16, 26, 150, 186
"""Places in the panel of a scanner: its width, the margins, the foot of the chart, its height."""

PANELS, DAYS = 6, 7
"""Numbers of scanners with a panel of their own, and of days written below it."""

RUN = 8
"""Days in a row above the median of the training cases that are called a drift: by chance, 1 in 256 such runs."""

USUAL = (5, 95)
"""Percentiles of the training cases between which the chart is shaded."""

OTHERS = "other scanners"

Scan = tuple[int, Mapping[str, Any]]


def draw_timeline(training: NDArray[np.float64], threshold: float, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a chart for each scanner: every scan on its day, and a line through the medians of the days.

    Shaded is where most training cases lie, each left out in turn. Nothing is drawn of scans of one day alone.

    Args:
        training: OODM of the training cases, ``(K,)``; higher means more abnormal.
        threshold: OODM above which a scan is called out-of-distribution.
        rows: Rows of the report with ``image``, ``oodm``, ``is_ood``, and ``day`` and ``scanner`` as
            :func:`~.origin.read_origin` gives them; those without a day or a number are left out.
    """
    scans = [item for item in enumerate(rows) if item[1].get("day") and is_number(item[1].get("oodm"))]
    days = sorted({_ordinal(row) for _, row in scans})
    if len(days) < 2:
        return ""
    values = np.asarray([*training.tolist(), threshold, *(row["oodm"] for _, row in scans)])
    lowest = float(values[values > 0].min(initial=1.0)) / 1.3
    axis = LogAxis(lowest, max(float(values.max()), lowest) * 1.3, FLOOR, TOP)
    return "".join(
        _panel(name, found, axis, (days[0], days[-1]), training, threshold) for name, found in _by_scanner(scans)
    )


def trailing_run(medians: Sequence[float], center: float) -> int:
    """Returns how many of the last values in a row lie above the center.

    Example:
        >>> trailing_run([1, 5, 2, 3, 4], center=1.5)
        4
    """
    below = [place for place, median in enumerate(medians) if median <= center]
    return len(medians) - 1 - (below[-1] if below else -1)


def _ordinal(row: Mapping[str, Any]) -> int:
    return date.fromisoformat(row["day"]).toordinal()


def _by_scanner(scans: Sequence[Scan]) -> list[tuple[str, list[Scan]]]:
    """Scanners with most scans first; those for which there is no room share the last panel."""
    groups: dict[str, list[Scan]] = {}
    for item in scans:
        groups.setdefault(str(item[1].get("scanner") or ""), []).append(item)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    if len(ordered) <= PANELS:
        return ordered
    rest = [item for _, found in ordered[PANELS - 1 :] for item in found]
    return [*ordered[: PANELS - 1], (OTHERS, sorted(rest, key=lambda item: item[0]))]


def _panel(
    name: str,
    scans: Sequence[Scan],
    axis: LogAxis,
    span: tuple[int, int],
    training: NDArray[np.float64],
    threshold: float,
) -> str:
    """The chart of one scanner under its heading."""

    def at(day: int) -> float:
        return round(LEFT + 8 + (day - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT - 16), 1)

    days = sorted({_ordinal(row) for _, row in scans})
    medians = [float(np.median([row["oodm"] for _, row in scans if _ordinal(row) == day])) for day in days]
    line = " ".join(f"{at(day)},{axis.at(median)}" for day, median in zip(days, medians, strict=True))
    center = float(np.median(training)) if len(training) else threshold
    run = trailing_run(medians, center)
    outside = sum(bool(row.get("is_ood")) for _, row in scans)
    heading = f"{len(scans)} scan(s) on {len(days)} day(s), {outside} out of distribution"
    heading = f"{text(name)}: {heading}" if name else heading
    drift = f"; the last {run} days lie above the median of the training cases" if run >= RUN else ""
    parts = [
        _background(axis, training, threshold),
        f'<polyline points="{line}" fill="none" stroke="{GRAY}" stroke-width="1.5"/>',
        *(_scan(item, at(_ordinal(item[1])), axis) for item in scans),
        f'<text class="above" x="{WIDTH - RIGHT}" y="{axis.at(threshold) - 5:.1f}" text-anchor="end">threshold</text>',
        _days(span, at),
    ]
    body = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="OODM by day. {heading}">{"".join(parts)}</svg>'
    return f"<h3>{heading}<b>{drift}</b></h3>{body}"


def _background(axis: LogAxis, training: NDArray[np.float64], threshold: float) -> str:
    """Where training cases lie, the threshold, and the numbers beside the axis."""
    parts = []
    if len(training):
        low, high = (axis.at(float(value)) for value in np.percentile(training, USUAL))
        box = f'x="{LEFT}" y="{high}" width="{WIDTH - LEFT - RIGHT}" height="{low - high:.1f}"'
        parts.append(f'<rect {box} fill="{GRAY}" opacity=".18"><title>90 % of the training cases</title></rect>')
    place = axis.at(threshold)
    parts.append(f'<path d="M{LEFT} {place}H{WIDTH - RIGHT}" stroke="#000" stroke-dasharray="5 4"/>')
    parts.append(f'<path d="M{LEFT} {TOP}V{FLOOR}H{WIDTH - RIGHT}" stroke="#000" fill="none"/>')
    for value in log_ticks(axis.first, axis.last, number=5):
        place = axis.at(value)
        parts.append(f'<path d="M{LEFT - 4} {place}h4" stroke="#000"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{LEFT - 7}" y="14" text-anchor="end">OODM</text>')
    return "".join(parts)


def _scan(item: Scan, place: float, axis: LogAxis) -> str:
    """The mark of a scan."""
    index, row = item
    outside = bool(row.get("is_ood"))
    title = f"{text(row['image'])}, {text(row['day'])}: OODM {number(row['oodm'])}"
    color = VERMILION if outside else BLUE
    return mark(index, place, axis.at(row["oodm"]), outside=outside, color=color, title=title)


def _days(span: tuple[int, int], at: Any) -> str:
    """Days below the axis, the first and the last among them."""
    shown = np.unique(np.linspace(*span, min(DAYS, span[1] - span[0] + 1)).round().astype(int)).tolist()
    marks = "".join(
        f'<path d="M{at(day)} {FLOOR}v5" stroke="#000"/>'
        f'<text x="{min(at(day), WIDTH - 36)}" y="{FLOOR + 20}" text-anchor="middle">'
        f"{date.fromordinal(day).isoformat()}</text>"
        for day in shown
    )
    return f'<g class="days">{marks}</g>'
