"""Draws values over epochs, numbers of patients and other quantities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from ..runtime.sparing import spared_picture
from .sheet import legend, open_sheet, whole_numbers
from .style import BLUE, SMALL, TINY, VERMILION, marker


@spared_picture
def draw_history(
    epochs: Sequence[Mapping[str, float]],
    metric: str,
    path: str | Path,
    *,
    gradient_norms: Sequence[Mapping[str, float]] = (),
) -> None:
    """Draws the training loss and the validation metric over the epochs, and gradient norms where there are any.

    Args:
        epochs: Numbers of every epoch by their names, ``epoch`` among them.
        metric: Name of the validation metric.
        path: Path of the PNG file that is written.
        gradient_norms: Norms by the name of their term, with the ``iteration`` they were measured in; drawn on a
            logarithmic axis, which 0 has no place on. Default none.
    """
    with open_sheet(path, columns=3 if gradient_norms else 2) as axes:
        for axis, name in zip(axes[0], ("train_loss", metric), strict=False):
            points = [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch]
            if points:
                axis.plot(*zip(*points, strict=True), marker=marker(points), markersize=4)
            else:
                axis.text(0.5, 0.5, "not recorded", ha="center")
            axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
            whole_numbers(axis.xaxis)
        if gradient_norms:
            _draw_norms(axes[0][2], gradient_norms)


def _draw_norms(axis: Any, gradient_norms: Sequence[Mapping[str, float]]) -> None:
    """Draws a curve for each term of the loss."""
    for term in dict.fromkeys(name for norms in gradient_norms for name in norms if name != "iteration"):
        points = [(norms["iteration"], norms[term]) for norms in gradient_norms if norms.get(term, 0) > 0]
        axis.plot([x for x, _ in points], [y for _, y in points], marker=".", label=term.replace("_", " "))
    axis.set(xlabel="iteration", ylabel="gradient norm on shared weights", yscale="log")
    whole_numbers(axis.xaxis)
    legend(axis)


@spared_picture
def draw_curves(
    groups: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: str | Path, *, xlabel: str, ylabel: str
) -> None:
    """Draws a panel of named curves for each group.

    Args:
        groups: Curves by the title of their panel: points ``(x, y)`` by the name of the curve.
        path: Path of the PNG file that is written.
        xlabel: Text below the horizontal axis of every panel.
        ylabel: Text beside the vertical axis of every panel.
    """
    with open_sheet(path, columns=len(groups)) as axes:
        for axis, (title, curves) in zip(axes[0], groups.items(), strict=True):
            for name, points in curves.items():
                axis.plot(*zip(*points, strict=True), marker=".", label=name)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
            whole_numbers(axis.xaxis)
            legend(axis)


@spared_picture
def draw_learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]],
    path: str | Path,
    *,
    xlabel: str,
    mark: float | None = None,
) -> None:
    """Draws a panel of named curves for each measure over a number on a logarithmic axis.

    It is linear from 0 to the lowest place above 0.

    Args:
        panels: Curves by the measure of their panel, in [0, 1]; the axis shows all of that, unless the values
            lie together. The name of a curve leads to its points: place, 0 or more, mean, and both ends of its
            interval.
        path: Path of the PNG file that is written.
        xlabel: Text below the horizontal axis of every panel.
        mark: Place on that axis to mark by a line. Default none.
    """
    with open_sheet(path, columns=len(panels)) as axes:
        for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
            places = sorted({point[0] for points in curves.values() for point in points})
            for name, points in curves.items():
                where, means, lows, highs = np.array(points, dtype=float).reshape(-1, 4).T
                axis.errorbar(where, means, yerr=[means - lows, highs - means], marker="o", capsize=3, label=name)
            axis.set_xscale("symlog", linthresh=min((place for place in places if place > 0), default=1), linscale=0.5)
            axis.set_xticks(places, [f"{place:.3g}" for place in places])
            axis.minorticks_off()
            if mark is not None:
                axis.axvline(mark, color="black", ls="--", lw=1, label=f"{mark:g}")
            lowest = min(point[2] for points in curves.values() for point in points)
            highest = max(point[3] for points in curves.values() for point in points)
            axis.set(title=title, xlabel=xlabel, ylim=learning_limits(lowest, highest))
            legend(axis)


def learning_limits(lowest: float, highest: float) -> tuple[float | None, float | None]:
    """Returns the limits of an axis: 0 to 1 for shares that differ, else as the values need it.

    Args:
        lowest: Lowest value that is drawn.
        highest: Highest value that is drawn.

    Example:
        >>> learning_limits(0.4, 0.8), learning_limits(0.98, 0.99), learning_limits(0.4, 80.0)
        ((0, 1), (None, None), (0, None))
    """
    if highest > 1:
        return 0, None
    # Less than a twentieth of the axis would be a level line.
    return (0, 1) if highest - lowest >= 0.05 else (None, None)


class GateCurve(TypedDict):
    """A training as :func:`draw_gates` shows it."""

    points: Sequence[tuple[float, float, float]]
    value: float
    floor: float | None


@spared_picture
def draw_gates(gates: Mapping[str, GateCurve], path: str | Path, *, columns: int = 3) -> None:
    """Draws a panel for each training: its validation over iterations, below, and over minutes, above.

    Args:
        gates: Trainings by the titles of their panels. ``points`` are iterations, minutes and the validation's value in
            [0, 1]; ``value`` is that of the test set; ``floor`` is what it should reach, or ``None``.
        path: Path of the PNG file that is written.
        columns: Number of panels beside each other, at least 1. Default 3.
    """
    rows = math.ceil(len(gates) / columns)
    with open_sheet(path, columns=columns, rows=rows, size=(4.0 * columns, 3.4 * rows)) as axes:
        for axis in axes.flat[len(gates) :]:
            axis.set_axis_off()
        for axis, (title, gate) in zip(axes.flat, gates.items(), strict=False):
            iterations, minutes, values = zip(*gate["points"], strict=True) if gate["points"] else ((), (), ())
            axis.plot(iterations, values, color=BLUE, marker=".", label="validation")
            axis.plot(iterations[-1:] or [0], [gate["value"]], color=VERMILION, marker="D", ls="", label="test")
            if gate["floor"] is not None:
                axis.axhline(gate["floor"], color="black", ls="--", lw=1, label="floor")
            axis.set_title(title, fontsize=SMALL)
            axis.set(xlabel="iterations", ylabel="Dice", ylim=(0, 1), xlim=(0, None))
            axis.legend(fontsize=TINY)
            _draw_minutes(axis, iterations, minutes)


def _draw_minutes(axis: Any, iterations: Sequence[float], minutes: Sequence[float]) -> None:
    """Writes minutes along the upper edge of a panel; trainings get through iterations at nearly one pace."""
    if not minutes or not minutes[-1] or not iterations[-1]:
        return
    pace = minutes[-1] / iterations[-1]
    upper = axis.secondary_xaxis("top", functions=(lambda place: place * pace, lambda time: time / pace))
    upper.set_xlabel("minutes", fontsize=TINY)
    upper.tick_params(labelsize=TINY)
