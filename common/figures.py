"""Pictures of results, PNG by matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .files import write_atomically


@contextmanager
def _figure(
    path: str | Path, columns: int = 1, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """Gives the axes of a figure and writes it as PNG at the end; no display, no global state."""
    figure = Figure(figsize=size or (5.6 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.subplots(rows, columns, squeeze=False)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_gallery(
    pictures: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], str]], path: str | Path, *, columns: int = 4
) -> None:
    """Draws slices with the outline of their segmentation and a line of text above each.

    Args:
        pictures: slice ``(H, W)``, or ``(H, W, 3)`` in colors; segmentation ``(H, W)``; text.
        path: of the PNG.
        columns: pictures side by side.
    """
    rows = -(-len(pictures) // columns)
    with _figure(path, columns=columns, rows=rows, size=(3.2 * columns, 3.4 * rows)) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (image, segmentation, text) in zip(axes.flat, pictures, strict=False):
            draw_slice(axis, image)
            if 0 < (segmentation > 0).mean() < 1:
                axis.contour(segmentation.T > 0, levels=[0.5], colors="tab:red", linewidths=1.2)
            axis.set_title(text, fontsize="small")


def draw_slice(axis: Any, image: NDArray[np.float32]) -> None:
    """Draws a slice, its first axis to the right: a volume's upwards, as in radiology, a color picture's downwards."""
    turned = np.swapaxes(image, 0, 1)
    if image.ndim == 2:
        axis.imshow(turned, cmap="gray", origin="lower")
        return
    low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
    axis.imshow((turned - low) / (high - low), origin="upper")


def draw_history(epochs: Sequence[Mapping[str, float]], metric: str, path: str | Path) -> None:
    """Draws the training loss and the validation metric over the epochs."""
    with _figure(path, columns=2) as axes:
        for axis, name in zip(axes[0], ("train_loss", metric), strict=True):
            points = [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch]
            axis.plot(*zip(*points, strict=True)) if points else axis.text(0.5, 0.5, "not recorded", ha="center")
            axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axis.grid(alpha=0.3)


def draw_curves(
    groups: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: str | Path, *, xlabel: str, ylabel: str
) -> None:
    """Draws a panel of named curves for each group.

    Args:
        groups: title -> name of a curve -> its points.
        path: of the PNG.
        xlabel: below every panel.
        ylabel: beside every panel.
    """
    with _figure(path, columns=len(groups)) as axes:
        for axis, (title, curves) in zip(axes[0], groups.items(), strict=True):
            for name, points in curves.items():
                axis.plot(*zip(*points, strict=True), marker=".", label=name)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
            axis.legend(fontsize="small")
            axis.grid(alpha=0.3)


def draw_bars(
    labels: Sequence[str], bars: Mapping[str, Sequence[float]], path: str | Path, *, xlabel: str, ylabel: str
) -> None:
    """Draws a group of bars for each label, one bar for each name.

    Args:
        labels: below the groups.
        bars: name -> heights between 0 and 1, one for each label; NaN draws nothing.
        path: of the PNG.
        xlabel: below the axis.
        ylabel: beside the axis.
    """
    width, places = 0.8 / len(bars), np.arange(len(labels))
    with _figure(path, size=(max(5.6, 1.1 * len(labels)), 4.0)) as axes:
        for number, (name, heights) in enumerate(bars.items()):
            axes[0, 0].bar(places + (number + 0.5) * width - 0.4, heights, width, label=name)
        axes[0, 0].set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1))
        axes[0, 0].set_xticks(places, labels, fontsize="small")
        axes[0, 0].legend(fontsize="small")


def draw_side_by_side(
    rows: Sequence[tuple[str, NDArray[np.float32], Sequence[NDArray[np.float32]]]],
    titles: Sequence[str],
    classes: int,
    path: str | Path,
) -> None:
    """Draws, for every case, its image and maps of classes beside it.

    Args:
        rows: name, slice ``(H, W)`` or ``(H, W, 3)``, and maps of class indices ``(H, W)``.
        titles: above the maps.
        classes: number of the foreground classes, so that each has one color everywhere.
        path: of the PNG.
    """
    columns = len(titles) + 1
    with _figure(path, columns=columns, rows=len(rows), size=(2.6 * columns, 2.7 * len(rows))) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, maps) in zip(axes, rows, strict=True):
            draw_slice(line[0], picture)
            line[0].set_title(name, fontsize="x-small")
            for axis, indices, title in zip(line[1:], maps, titles, strict=True):
                origin = "upper" if picture.ndim == 3 else "lower"
                axis.imshow(indices.T, cmap="turbo", vmin=0, vmax=max(classes, 1), origin=origin, interpolation="none")
                axis.set_title(title, fontsize="x-small")


def draw_overlays(
    rows: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    classes: Sequence[str],
    path: str | Path,
) -> None:
    """Draws, for every case, its image, and the true and the predicted classes over it, in the colors of a legend.

    Args:
        rows: name, slice ``(H, W)`` or ``(H, W, 3)``, true and predicted class indices ``(H, W)``.
        classes: names of the foreground classes.
        path: of the PNG.
    """
    with _figure(path, columns=3, rows=len(rows), size=(8.4, 2.4 * len(rows) + 0.4)) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, truth, predicted) in zip(axes, rows, strict=True):
            for axis, indices, title in zip(line, (None, truth, predicted), (name, "truth", "prediction"), strict=True):
                draw_slice(axis, picture)
                axis.set_title(title, fontsize="x-small")
                if indices is not None:
                    origin = "upper" if picture.ndim == 3 else "lower"
                    shown = np.ma.masked_equal(indices.T, 0)
                    axis.imshow(shown, cmap="tab20", vmin=1, vmax=20, alpha=0.55, origin=origin, interpolation="none")
        colors = [Patch(color=colormaps["tab20"](number / 19), label=name) for number, name in enumerate(classes)]
        axes[0, 0].figure.legend(handles=colors, loc="outside lower center", ncols=4, fontsize="x-small")


def draw_scatter(panels: Mapping[str, NDArray[np.float64]], labels: Sequence[str], path: str | Path) -> None:
    """Draws points in the plane, a panel for each set of them, colored by their labels.

    Args:
        panels: title -> points ``(N, 2)``.
        labels: of every point, the same in all panels.
        path: of the PNG.
    """
    with _figure(path, columns=len(panels)) as axes:
        for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
            for name in sorted(set(labels)):
                chosen = points[[label == name for label in labels]]
                axis.plot(*chosen.T, ".", label=f"{name} (n = {len(chosen)})")
            axis.set(title=title, xlabel="first principal component", ylabel="second principal component")
        axes[0, -1].legend(title="classes shown", fontsize="x-small")


def draw_sweep(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: str | Path,
    *,
    xlabel: str,
    ylabel: str,
    mark: float,
    joined: bool,
) -> None:
    """Draws values over a quantity: every single run as a dot, and the mean of each group of them.

    Args:
        panels: name of a measure -> name of a group -> places and values of its runs.
        path: of the PNG.
        xlabel: below the axes.
        ylabel: beside the axes.
        mark: place of a dashed line.
        joined: whether the groups differ in nothing but their place, so that a line may join their means.
    """
    with _figure(path, columns=len(panels)) as axes:
        for axis, (name, groups) in zip(axes[0], panels.items(), strict=True):
            means = {group: np.mean(pairs, axis=0) for group, pairs in groups.items()}
            for color, (group, pairs) in enumerate(groups.items()):
                axis.plot(*zip(*pairs, strict=True), ".", color=f"C{color}", alpha=0.5)
                axis.plot(*means[group], "o", color=f"C{color}", label=group)
            if joined:
                axis.plot(*zip(*sorted(map(tuple, means.values())), strict=True), color="gray", zorder=0)
            axis.axvline(mark, color="black", linestyle="--", linewidth=0.8)
            axis.set(xlabel=xlabel, ylabel=ylabel, title=name)
            axis.grid(alpha=0.3)
        axes[0, -1].legend(fontsize="x-small")


def draw_maps(
    rows: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    path: str | Path,
) -> None:
    """Draws, for every case, its image with the outline of the truth, its reconstruction, and a map of scores.

    Args:
        rows: name, slice ``(H, W)`` or ``(H, W, 3)``, truth ``(H, W)``, reconstruction, and scores ``(H, W)``, whose
            colors are the same in all rows.
        path: of the PNG.
    """
    highest = max(float(np.percentile(row[4], 99.9)) for row in rows) or 1.0
    with _figure(path, columns=3, rows=len(rows), size=(7.8, 2.7 * len(rows))) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, truth, rebuilt, score) in zip(axes, rows, strict=True):
            origin = "upper" if picture.ndim == 3 else "lower"
            for axis, shown in ((line[0], picture), (line[1], rebuilt)):
                draw_slice(axis, shown)
            line[2].imshow(score.T, cmap="inferno", vmin=0, vmax=highest, origin=origin)
            for axis in (line[0], line[2]):
                if 0 < (truth > 0).mean() < 1:
                    axis.contour(truth.T > 0, levels=[0.5], colors="tab:cyan", linewidths=0.8)
            for axis, title in zip(line, (name, "reconstruction", "anomaly score"), strict=True):
                axis.set_title(title, fontsize="x-small")


def draw_learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], path: str | Path, *, xlabel: str
) -> None:
    """Draws a panel of named curves for each measure over a number on a logarithmic axis, on which 0 has its place.

    Args:
        panels: measure -> name of a curve -> places, means and standard deviations.
        path: of the PNG.
        xlabel: below every panel.
    """
    with _figure(path, columns=len(panels)) as axes:
        for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
            places = sorted({place for points in curves.values() for place, _, _ in points})
            for name, points in curves.items():
                where, means, spreads = zip(*points, strict=True) if points else ((), (), ())
                axis.errorbar(where, means, yerr=spreads, marker="o", capsize=3, label=name)
            axis.set_xscale("symlog", linthresh=1, linscale=0.5)
            axis.set_xticks(places, [f"{place:g}" for place in places])
            axis.minorticks_off()
            axis.set(title=title, xlabel=xlabel, ylim=(0, 1))
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")


def draw_signatures(groups: Mapping[str, NDArray[np.float64]], path: str | Path) -> None:
    """Draws the spectral signatures of every group: mean and range.

    Args:
        groups: name -> signatures ``(K, D)``.
        path: of the PNG.
    """
    with _figure(path) as axes:
        for name, rows in groups.items():
            order = np.arange(1, rows.shape[1] + 1)
            (line,) = axes[0, 0].plot(order, rows.mean(axis=0), marker=".", label=f"{name} (n = {len(rows)})")
            axes[0, 0].fill_between(order, rows.min(axis=0), rows.max(axis=0), alpha=0.2, color=line.get_color())
        axes[0, 0].set(xlabel="index of the singular value", ylabel="spectral signature")
        axes[0, 0].legend(fontsize="small")
        axes[0, 0].grid(alpha=0.3)


def draw_scores(groups: Mapping[str, Sequence[float]], threshold: float, path: str | Path) -> None:
    """Draws a histogram of OODM for every group, with the threshold; higher means more abnormal.

    Args:
        groups: name -> scores.
        threshold: drawn as a vertical line.
        path: of the PNG.
    """
    values = np.concatenate([np.asarray(scores, dtype=float) for scores in groups.values()])
    # Cases of the bank itself have an OODM of zero, which a logarithmic axis cannot show but in its first bin.
    lowest = max(values[values > 0].min(initial=threshold), 1e-6)
    edges = np.geomspace(lowest, max(values.max(), threshold) * 1.05, 40)
    with _figure(path) as axes:
        for name, scores in groups.items():
            axes[0, 0].hist(np.maximum(scores, lowest), bins=edges, alpha=0.5, label=f"{name} (n = {len(scores)})")
        axes[0, 0].axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
        axes[0, 0].set(xscale="log", xlabel="OODM (higher: more abnormal)", ylabel="scans")
        axes[0, 0].legend(fontsize="small")


def draw_roc(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]], path: str | Path) -> None:
    """Draws receiver operating characteristic curves.

    Args:
        curves: name -> false positive rates, true positive rates, AUC; positive means out-of-distribution.
        path: of the PNG.
    """
    with _figure(path) as axes:
        for name, (false_positive, true_positive, auc) in curves.items():
            axes[0, 0].plot(false_positive, true_positive, label=f"{name}: AUC {auc:.3f}")
        axes[0, 0].plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes[0, 0].set(xlabel="false positive rate", ylabel="true positive rate")
        axes[0, 0].legend(fontsize="small", loc="lower right")


def draw_reliability(bins: NDArray[np.float64], path: str | Path) -> None:
    """Draws the reliability diagram of predicted foreground probabilities.

    Args:
        bins: ``(3, K)`` from ``calibration_bins``: voxels, sum of probabilities, foreground voxels.
        path: of the PNG.
    """
    number, probability, foreground = bins
    used = number > 0
    with _figure(path) as axes:
        width = 1 / bins.shape[1]
        left = (np.arange(bins.shape[1]) * width)[used]
        axes[0, 0].bar(
            left, foreground[used] / number[used], width, align="edge", alpha=0.5, label="share of foreground"
        )
        axes[0, 0].plot(
            probability[used] / number[used], foreground[used] / number[used], "o-", label="against mean probability"
        )
        axes[0, 0].plot([0, 1], [0, 1], color="gray", linewidth=0.8, label="perfect")
        axes[0, 0].set(
            xlabel="predicted foreground probability", ylabel="share of foreground", xlim=(0, 1), ylim=(0, 1)
        )
        axes[0, 0].legend(fontsize="small")


def draw_table(header: Sequence[str], lines: Sequence[Sequence[Any]], path: str | Path) -> None:
    """Draws a table of figures between 0 and 1, colored by value.

    Args:
        header: names of the columns; the first names the lines.
        lines: name of the line, then its figures; other cells stay as they are.
        path: of the PNG.
    """
    numbers = [[cell if isinstance(cell, float) else np.nan for cell in line[1:]] for line in lines]
    with _figure(path, size=(4 + 0.6 * len(header), 1.8 + 0.3 * len(lines))) as axes:
        axis = axes[0, 0]
        axis.imshow(np.ma.masked_invalid(numbers), vmin=0, vmax=1, cmap="RdYlGn", alpha=0.7, aspect="auto")
        for row, line in enumerate(numbers):
            for column, value in enumerate(line):
                if np.isfinite(value):
                    axis.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize="x-small")
        axis.set_xticks(range(len(header) - 1), header[1:], rotation=40, ha="right", fontsize="x-small")
        axis.set_yticks(range(len(lines)), [str(line[0]) for line in lines], fontsize="x-small")
