"""Draws slices of scans, with what was found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.sparing import spared_picture
from .sheet import class_legend, open_sheet
from .style import AREAS, OUTLINES, SCORES, SMALL, TINY, outline_look, wrap

CHARACTERS = 15
"""Characters of the smallest size that fit on an inch."""

INSIDE = 0.7
"""Level of the outline of a class, a fifth of a pixel inside of it, so that those of neighbors are both seen."""


@spared_picture
def draw_gallery(
    pictures: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], str]],
    path: str | Path,
    *,
    columns: int = 4,
    names: Mapping[int, str] | None = None,
) -> None:
    """Draws slices with the outline of every class in its color, a legend, and a line of text above each.

    Args:
        pictures: Pictures of three parts each: slice ``(H, W)``, or ``(H, W, 3)`` in colors; class indices ``(H, W)``,
            above 0 in the foreground; text.
        path: Path of the PNG file that is written.
        columns: Number of pictures side by side, at least 1; 4 by default.
        names: Number of a class -> its name in the legend. By default, classes are named after their numbers, and one
            alone not at all.
    """
    found = sorted(set().union(*(class_numbers(item) for _, item, _ in pictures)))
    shown = (
        {number: (names or {}).get(number, f"class {number}") for number in found} if names or len(found) > 1 else {}
    )
    rows = -(-len(pictures) // columns)
    tallest = max(image.shape[1] / image.shape[0] for image, _, _ in pictures)
    titles = [wrap(text, int(3.1 * CHARACTERS)) for _, _, text in pictures]
    above = 0.16 * max(title.count("\n") + 1 for title in titles) + 0.1
    with open_sheet(
        path,
        columns=columns,
        rows=rows,
        size=(3.2 * columns, (2.8 * min(tallest, 1.0) + above) * rows + 0.3 * bool(shown)),
    ) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, title, (image, segmentation, _) in zip(axes.flat, titles, pictures, strict=False):
            draw_slice(axis, image)
            for number in class_numbers(segmentation):
                _outline(axis, segmentation == number, *outline_look(number), level=INSIDE, linewidth=1.2)
            axis.set_title(title, fontsize=SMALL)
        class_legend(axes[0, 0], shown, outlined=True)


def class_numbers(indices: NDArray[np.float32]) -> list[int]:
    """Returns the numbers of the foreground classes that a map of class indices holds, in order."""
    return [int(number) for number in np.unique(indices) if number > 0]


def draw_slice(axis: Any, image: NDArray[np.float32], *, scale: NDArray[np.float32] | None = None) -> None:
    """Draws a slice, its first axis to the right: a volume's upwards, as in radiology, a color picture's downwards.

    Args:
        axis: Axes that are drawn on.
        image: Slice ``(H, W)``, or ``(H, W, 3)`` in colors.
        scale: Slice whose smallest and largest value are black and white. Default: the image.
    """
    turned, values = np.swapaxes(image, 0, 1), image if scale is None else scale
    low, high = float(values.min()), float(values.max())
    if image.ndim == 2:
        limits = {} if scale is None else {"vmin": low, "vmax": high}
        axis.imshow(turned, cmap="gray", origin="lower", **limits)
        return
    low, high = min(0.0, low), max(1.0, high)
    axis.imshow(np.clip((turned - low) / (high - low), 0, 1), origin="upper")


@spared_picture
def draw_side_by_side(
    rows: Sequence[tuple[str, NDArray[np.float32], Sequence[NDArray[np.float32]]]],
    titles: Sequence[str],
    classes: Sequence[str],
    path: str | Path,
) -> None:
    """Draws, for every case, its image and maps of classes beside it, in the colors of a legend.

    Args:
        rows: Cases of three parts each: name, slice ``(H, W)`` or ``(H, W, 3)``, and maps of class indices ``(H, W)``.
        titles: Titles above the maps, one for each.
        classes: Names of the foreground classes, from class 1 on.
        path: Path of the PNG file that is written.
    """
    columns = len(titles) + 1
    with open_sheet(
        path, columns=columns, rows=len(rows), size=(2.6 * columns, _height(rows, 2.5) * len(rows) + 0.5)
    ) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, maps) in zip(axes, rows, strict=True):
            draw_slice(line[0], picture)
            line[0].set_title(wrap(name, int(2.5 * CHARACTERS)), fontsize=TINY)
            for axis, indices, title in zip(line[1:], maps, titles, strict=True):
                draw_slice(axis, np.zeros_like(picture))
                _draw_classes(axis, indices, picture)
                axis.set_title(title, fontsize=TINY)
        class_legend(axes[0, 0], _names(classes, [item for _, _, maps in rows for item in maps]))


def _height(rows: Sequence[Any], width: float) -> float:
    """Height of a row in inches: a line of text, and below it the second item of a row, a slice of this width."""
    return width * max(min(row[1].shape[1] / row[1].shape[0], 1.0) for row in rows) + 0.3


def _names(classes: Sequence[str], maps: Sequence[NDArray[np.float32]]) -> dict[int, str]:
    """Number -> name of the classes that the maps show."""
    found = set().union(*map(class_numbers, maps))
    return {number: name for number, name in enumerate(classes, start=1) if number in found}


def _draw_classes(axis: Any, indices: NDArray[np.float32], picture: NDArray[np.float32], alpha: float = 1.0) -> None:
    """Draws the areas of classes as the picture beside or below them is drawn; nothing where there is background."""
    shown = np.ma.masked_less(indices.T, 1) - 1
    origin = "upper" if picture.ndim == 3 else "lower"
    colors = ListedColormap(AREAS)
    axis.imshow(
        shown % len(AREAS),
        cmap=colors,
        vmin=-0.5,
        vmax=len(AREAS) - 0.5,
        alpha=alpha,
        origin=origin,
        interpolation="none",
    )


@spared_picture
def draw_overlays(
    rows: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    classes: Sequence[str],
    path: str | Path,
) -> None:
    """Draws, for every case, its image, and the true and the predicted classes over it, in the colors of a legend.

    Args:
        rows: Cases of four parts each: name, slice ``(H, W)`` or ``(H, W, 3)``, true and predicted class indices
            ``(H, W)``.
        classes: Names of the foreground classes, from class 1 on.
        path: Path of the PNG file that is written.
    """
    with open_sheet(path, columns=3, rows=len(rows), size=(8.4, _height(rows, 2.7) * len(rows) + 0.5)) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, truth, predicted) in zip(axes, rows, strict=True):
            titles = (wrap(name, int(2.7 * CHARACTERS)), "truth", "prediction")
            for axis, indices, title in zip(line, (None, truth, predicted), titles, strict=True):
                draw_slice(axis, picture)
                axis.set_title(title, fontsize=TINY)
                if indices is not None:
                    _draw_classes(axis, indices, picture, alpha=0.55)
        class_legend(axes[0, 0], _names(classes, [item for row in rows for item in row[2:]]))


@spared_picture
def draw_maps(
    rows: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    path: str | Path,
) -> None:
    """Draws, for every case, its image with the outline of the truth, its reconstruction, and a map of scores.

    Args:
        rows: Cases of five parts each: name, slice ``(H, W)`` or ``(H, W, 3)``, truth ``(H, W)``, reconstruction like
            the slice, and scores ``(H, W)``. The colors of the scores are the same in all rows.
        path: Path of the PNG file that is written.
    """
    highest = max(float(np.percentile(row[4], 99.9)) for row in rows) or 1.0
    with open_sheet(path, columns=3, rows=len(rows), size=(8.6, _height(rows, 2.5) * len(rows))) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, truth, rebuilt, score) in zip(axes, rows, strict=True):
            origin = "upper" if picture.ndim == 3 else "lower"
            draw_slice(line[0], picture)
            draw_slice(line[1], rebuilt, scale=picture)
            shown = line[2].imshow(score.T, cmap=SCORES, vmin=0, vmax=highest, origin=origin)
            for axis in (line[0], line[2]):
                _outline(axis, truth, OUTLINES[1])
            titles = (wrap(name, int(2.4 * CHARACTERS)), "reconstruction", "anomaly score")
            for axis, title in zip(line, titles, strict=True):
                axis.set_title(title, fontsize=TINY)
        bar = line[2].figure.colorbar(shown, ax=axes[:, 2], shrink=min(1.0, 1.5 / len(rows) + 0.2), extend="max")
        bar.set_label("anomaly score (higher: more abnormal); outlined: truth", fontsize=TINY)
        bar.ax.tick_params(labelsize=TINY)


@spared_picture
def draw_uncertainty(
    rows: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32], Sequence[Any]]], path: str | Path
) -> None:
    """Draws, for every case, its image with the outline of the truth, and where networks are unsure and wrong.

    Args:
        rows: Cases of four parts each: name, slice ``(H, W)``, truth ``(H, W)``, and for each network its title, its
            uncertainty ``(H, W)`` in [0, 1], and its errors ``(H, W)``, above 0 where it is wrong.
        path: Path of the PNG file that is written.
    """
    columns = len(rows[0][3]) + 1
    with open_sheet(path, columns=columns, rows=len(rows), size=(2.6 * columns + 0.8, 2.7 * len(rows))) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, truth, networks) in zip(axes, rows, strict=True):
            draw_slice(line[0], picture)
            _outline(line[0], truth, OUTLINES[1])
            line[0].set_title(wrap(name, int(2.5 * CHARACTERS)), fontsize=TINY)
            for axis, (title, uncertainty, wrong) in zip(line[1:], networks, strict=True):
                shown = axis.imshow(uncertainty.T, cmap=SCORES, vmin=0, vmax=1, origin="lower")
                _outline(axis, wrong, OUTLINES[2])
                axis.set_title(title, fontsize=TINY)
        bar = axes[0, -1].figure.colorbar(shown, ax=axes[:, -1], shrink=min(1.0, 1.5 / len(rows) + 0.2))
        bar.set_label("entropy in bits; outlined: errors", fontsize=TINY)
        bar.ax.tick_params(labelsize=TINY)


def _outline(
    axis: Any, area: NDArray[Any], color: str, linestyle: str = "-", *, level: float = 0.5, linewidth: float = 0.8
) -> None:
    """Draws the outline of an area above 0, where it has one."""
    if 0 < (area > 0).mean() < 1:
        axis.contour(area.T > 0, levels=[level], colors=color, linestyles=linestyle, linewidths=linewidth)


def telling_slice(image: Tensor, segmentation: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the slice along the last axis that holds most foreground, the middle one without any.

    Args:
        image: Image ``(C, H, W[, D])``; the first channel is shown, or all three of a color picture.
        segmentation: Class indices ``(1, H, W[, D])``, above 0 in the foreground; also without the first axis.

    Returns:
        Slice of the image, ``(H, W)`` or ``(H, W, 3)``, and of the segmentation, ``(H, W)``.
    """
    colors = image.ndim == 3 and len(image) == 3
    shown = image.movedim(0, -1) if colors else image[0]
    indices = segmentation[0] if segmentation.ndim == image.ndim else segmentation
    picture, outline = (np.asarray(item.cpu(), dtype=np.float32) for item in (shown, indices))
    if outline.ndim == 2:
        return picture, outline
    area = (outline > 0).sum(axis=(0, 1))
    index = int(area.argmax()) if area.any() else picture.shape[-1] // 2
    # Copies, so that the whole volume is not kept.
    return picture[..., index].copy(), outline[..., index].copy()
