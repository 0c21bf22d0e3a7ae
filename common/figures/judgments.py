"""Draws how in- and out-of-distribution scans are told apart, and how far probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.sparing import spared_picture
from .sheet import legend, logarithmic, open_sheet
from .style import GRAY, SERIES, marker


@spared_picture
def draw_signatures(groups: Mapping[str, NDArray[np.float64]], path: str | Path) -> None:
    """Draws the spectral signatures of every group: mean and range.

    Args:
        groups: Signatures ``(K, D)`` of K scans each, by the name of the group.
        path: Path of the PNG file that is written.
    """
    with open_sheet(path) as axes:
        for name, rows in groups.items():
            order = np.arange(1, rows.shape[1] + 1)
            (line,) = axes[0, 0].plot(
                order, rows.mean(axis=0), marker=marker(order), markersize=3, label=f"{name} (n = {len(rows)})"
            )
            axes[0, 0].fill_between(order, rows.min(axis=0), rows.max(axis=0), alpha=0.2, color=line.get_color())
        axes[0, 0].set(xlabel="index of the singular value", ylabel="spectral signature")
        legend(axes[0, 0])


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
    edges = np.geomspace(lowest, max(values.max(), threshold) * 1.05, 40)
    with open_sheet(path) as axes:
        for number, (name, scores) in enumerate(groups.items()):
            color = SERIES[number % len(SERIES)]
            # Edges stay visible where areas overlap.
            look = {"histtype": "stepfilled", "facecolor": (color, 0.35), "edgecolor": color, "linewidth": 1.3}
            axes[0, 0].hist(np.maximum(scores, lowest), bins=edges, label=f"{name} (n = {len(scores)})", **look)
        axes[0, 0].axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
        axes[0, 0].set(xlabel="OODM (higher: more abnormal)", ylabel="scans")
        logarithmic(axes[0, 0], edges[0], edges[-1])
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
        for name, (false_positive, true_positive, auc) in curves.items():
            axes[0, 0].plot(false_positive, true_positive, label=f"{name}: AUC {auc:.3f}")
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
            probability[used] / number[used], foreground[used] / number[used], "o-", label="against mean probability"
        )
        axes[0, 0].plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, label="perfect")
        axes[0, 0].set(
            xlabel="predicted foreground probability", ylabel="share of foreground", xlim=(0, 1), ylim=(0, 1)
        )
        legend(axes[0, 0])
