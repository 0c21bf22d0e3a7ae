"""Draws how in- and out-of-distribution scans are told apart, and how far probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.sparing import spared_picture
from ..runtime.tables import number_text
from .sheet import legend, logarithmic, open_sheet, whole_numbers
from .style import DASHES, GRAY, SERIES, SMALL, marker, wrap


@spared_picture
def draw_signatures(
    groups: Mapping[str, NDArray[np.float64]],
    path: str | Path,
    *,
    layers: Mapping[str, int] | None = None,
    spreads: bool = False,
) -> None:
    """Draws the spectral signatures of every group: mean and range, layer by layer.

    Args:
        groups: Signatures ``(K, D)`` of K scans each, by the name of the group.
        path: Path of the PNG file that is written.
        layers: Name of each layer -> the numbers it has in a signature, together D; all layers are drawn equally wide.
            By default, all numbers are of one layer without a name.
        spreads: Whether the second half of a layer's numbers are spreads of channels. Default false.
    """
    shown = dict(layers or {"": next(iter(groups.values())).shape[1]})
    with open_sheet(path, size=(max(5.6, 1.5 * len(shown)), 4.0)) as axes:
        axis = axes[0, 0]
        for number, (name, rows) in enumerate(groups.items()):
            turn, place = divmod(number, len(SERIES))
            _draw_layers(axis, rows, list(shown.values()), SERIES[place], DASHES[turn % len(DASHES)])
            axis.plot([], color=SERIES[place], linestyle=DASHES[turn % len(DASHES)], label=f"{name} (n = {len(rows)})")
        for border in range(1, len(shown)):
            axis.axvline(border, color=GRAY, linewidth=0.8)
        names = [wrap(name.replace(".", ". "), 16).replace(". ", ".") for name in shown]
        axis.set_xticks(np.arange(len(shown)) + 0.5, names, fontsize=SMALL)
        axis.tick_params(axis="x", length=0)
        kinds = "singular values, then spreads of channels" if spreads else "singular values"
        axis.set(xlim=(0, len(shown)), ylabel="spectral signature")
        axis.set_xlabel(f"layer (of the network: {kinds})", fontsize=SMALL)
        axis.grid(visible=False, axis="x")
        legend(axis)


def _draw_layers(axis: Any, rows: NDArray[np.float64], sizes: Sequence[int], color: str, dashes: str) -> None:
    """Draws mean and range of signatures ``(K, D)``, a line for each layer, all of the same width."""
    for place, part in enumerate(np.split(rows, np.cumsum(sizes)[:-1], axis=1)):
        where = place + (np.arange(part.shape[1]) + 0.5) / part.shape[1]
        axis.plot(
            where,
            part.mean(axis=0),
            color=color,
            linestyle=dashes,
            marker=marker(where),
            markersize=2 if len(where) > 1 else 5,
        )
        axis.fill_between(where, part.min(axis=0), part.max(axis=0), alpha=0.2, color=color, linewidth=0)


@spared_picture
def draw_scores(groups: Mapping[str, Sequence[float]], threshold: float, path: str | Path) -> None:
    """Draws a histogram of OODM for every group, with the threshold; higher means more abnormal.

    Args:
        groups: OODM of scans, 0 or more, by the name of the group.
        threshold: OODM above which a scan is called out-of-distribution, drawn as a vertical line.
        path: Path of the PNG file that is written.
    """
    values = np.concatenate([np.asarray(scores, dtype=float) for scores in groups.values()])
    # Cases of the bank itself have an OODM of zero, which a logarithmic axis cannot show but in its first bin.
    lowest = max(values[values > 0].min(initial=threshold), 1e-6)
    edges = np.geomspace(min(lowest, threshold), max(values.max(), threshold) * 1.05, 40)
    # A bin ends at the threshold, so that no bar lies on both sides of it.
    edges = np.unique(np.append(edges, threshold))
    with open_sheet(path) as axes:
        for number, (name, scores) in enumerate(groups.items()):
            color = SERIES[number % len(SERIES)]
            counts = np.histogram(np.maximum(scores, lowest), bins=edges)[0]
            # Edges stay visible where areas overlap; bins without a scan have none.
            look = {"fill": True, "facecolor": (color, 0.35), "edgecolor": color, "linewidth": 1.3}
            label = f"{name} (n = {len(scores)})"
            axes[0, 0].stairs(np.where(counts > 0, counts, np.nan), edges, label=label, **look)
        axes[0, 0].axvline(threshold, color="black", linestyle="--", label=f"threshold {number_text(threshold)}")
        axes[0, 0].set(xlabel="OODM (higher: more abnormal)", ylabel="scans")
        logarithmic(axes[0, 0], edges[0], edges[-1])
        axes[0, 0].set_ylim(bottom=0)
        whole_numbers(axes[0, 0].yaxis)
        legend(axes[0, 0])


@spared_picture
def draw_roc(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]], path: str | Path) -> None:
    """Draws receiver operating characteristic curves.

    Args:
        curves: False positive rates, true positive rates and AUC, all in [0, 1], by the name of the curve. Positive
            means out-of-distribution.
        path: Path of the PNG file that is written.
    """
    with open_sheet(path) as axes:
        for number, (name, (false_positive, true_positive, auc)) in enumerate(curves.items()):
            # Curves that lie on each other are seen all the same: the first ones are the widest.
            width = 1.5 + 4 * (1 - (number + 1) / len(curves))
            axes[0, 0].plot(false_positive, true_positive, linewidth=width, label=f"{name}: AUC {auc:.3f}")
        axes[0, 0].plot([0, 1], [0, 1], color=GRAY, linewidth=0.8)
        axes[0, 0].set(xlabel="false positive rate", ylabel="true positive rate")
        legend(axes[0, 0], loc="lower right")


@spared_picture
def draw_reliability(bins: NDArray[np.float64], path: str | Path) -> None:
    """Draws the reliability diagram of predicted foreground probabilities.

    Args:
        bins: Sums ``(3, K)`` from ``calibration_bins``: voxels, sum of probabilities, foreground voxels.
        path: Path of the PNG file that is written.
    """
    number, probability, foreground = bins
    used = number > 0
    with open_sheet(path) as axes:
        width = 1 / bins.shape[1]
        left = (np.arange(bins.shape[1]) * width)[used]
        axes[0, 0].bar(
            left, foreground[used] / number[used], width, align="edge", alpha=0.5, label="share of foreground"
        )
        axes[0, 0].plot(
            probability[used] / number[used],
            foreground[used] / number[used],
            "o-",
            clip_on=False,
            label="against mean probability",
        )
        axes[0, 0].plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, label="perfect")
        axes[0, 0].set(
            xlabel="predicted foreground probability", ylabel="share of foreground", xlim=(0, 1), ylim=(0, 1)
        )
        legend(axes[0, 0])
