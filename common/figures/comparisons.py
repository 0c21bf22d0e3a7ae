"""Draws several methods, classes or cases beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.sparing import spared_picture
from .sheet import legend, logarithmic, open_sheet
from .style import MARKERS, SERIES, SHARES, SMALL, TINY, wrap


@spared_picture
def draw_bars(
    labels: Sequence[str], bars: Mapping[str, Sequence[float]], path: str | Path, *, xlabel: str, ylabel: str
) -> None:
    """Draws a group of bars for each label, one bar for each name.

    Args:
        labels: Names of the groups, written below them.
        bars: Heights in [0, 1] by the name of the bar, one for each label; NaN draws nothing.
        path: Path of the PNG file that is written.
        xlabel: Text below the horizontal axis.
        ylabel: Text beside the vertical axis.
    """
    width, places = 0.8 / len(bars), np.arange(len(labels))
    with open_sheet(path, size=(max(5.6, 1.1 * len(labels)), 4.0)) as axes:
        for number, (name, heights) in enumerate(bars.items()):
            axes[0, 0].bar(places + (number + 0.5) * width - 0.4, heights, width, label=name)
        axes[0, 0].set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1))
        axes[0, 0].set_xticks(places, [wrap(label.replace("_", " "), 13) for label in labels], fontsize=SMALL)
        axes[0, 0].grid(visible=False, axis="x")
        legend(axes[0, 0])


@spared_picture
def draw_scatter(panels: Mapping[str, NDArray[np.float64]], labels: Sequence[str], path: str | Path) -> None:
    """Draws points in the plane, a panel for each set of them, colored by their labels.

    Args:
        panels: Points ``(N, 2)`` by the title of the panel.
        labels: Names of the classes of the N points, the same in all panels.
        path: Path of the PNG file that is written.
    """
    with open_sheet(path, columns=len(panels)) as axes:
        for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
            for number, name in enumerate(sorted(set(labels))):
                chosen = points[[label == name for label in labels]]
                look = MARKERS[number // len(SERIES) % len(MARKERS)]
                axis.plot(*chosen.T, look, ls="", markersize=4, label=wrap(f"{name} (n\u00a0=\u00a0{len(chosen)})", 36))
            axis.set(title=title, xlabel="first principal component", ylabel="second principal component")
            # Small numbers have their power beside the axis, and do not touch.
            axis.ticklabel_format(scilimits=(-2, 4))
            axis.locator_params(nbins=6)
        legend(axes[0, -1], title="classes shown")


@spared_picture
def draw_named_points(
    points: Mapping[str, tuple[float, float]],
    path: str | Path,
    *,
    first: str,
    second: str,
    log_first: bool = False,
) -> None:
    """Draws two figures of several things: a line for each thing, the one with the largest second figure at the top.

    Names stand in lines of their own, so that they touch neither each other nor a point, however close the figures.

    Args:
        points: First and second figure by name, all finite.
        path: Path of the PNG file that is written.
        first: Text below the axis of the first figures, at the left.
        second: Text below the axis of the second figures, at the right.
        log_first: Whether the axis of the first figures is logarithmic, for figures above 0. Default false.
    """
    names = sorted(points, key=lambda name: points[name][1])
    with open_sheet(path, columns=2, size=(10.0, 1.0 + 0.22 * len(names))) as axes:
        for place, (axis, text) in enumerate(zip(axes[0], (first, second), strict=True)):
            axis.plot([points[name][place] for name in names], range(len(names)), "o", markersize=5)
            axis.set(xlabel=text, ylim=(-0.6, len(names) - 0.4))
            axis.set_yticks(range(len(names)), [""] * len(names) if place else names, fontsize=SMALL)
            axis.tick_params(axis="y", length=0)
            axis.locator_params(axis="x", nbins=6)
        if log_first:
            values = [value for value, _ in points.values()]
            logarithmic(axes[0, 0], min(values), max(values))


@spared_picture
def draw_table(header: Sequence[str], lines: Sequence[Sequence[Any]], path: str | Path) -> None:
    """Draws a table of figures between 0 and 1, colored by value.

    Args:
        header: Names of the columns; the first names the lines.
        lines: Lines of the table: first the name of the line, then its figures in [0, 1]. Only cells that are ``float``
            are drawn.
        path: Path of the PNG file that is written.
    """
    numbers = [[cell if isinstance(cell, float) else np.nan for cell in line[1:]] for line in lines]
    with open_sheet(path, size=(4 + 0.6 * len(header), 1.8 + 0.3 * len(lines))) as axes:
        axis = axes[0, 0]
        axis.imshow(np.ma.masked_invalid(numbers), vmin=0, vmax=1, cmap=SHARES, aspect="auto")
        axis.grid(visible=False)
        for row, line in enumerate(numbers):
            for column, value in enumerate(line):
                if np.isfinite(value):
                    ink = "black" if value > 0.5 else "white"
                    axis.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=TINY, color=ink)
        axis.set_xticks(range(len(header) - 1), header[1:], rotation=40, ha="right", fontsize=TINY)
        axis.set_yticks(range(len(lines)), [str(line[0]) for line in lines], fontsize=TINY)
