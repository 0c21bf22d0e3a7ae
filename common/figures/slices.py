"""Draws slices of scans, with what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.sparing import spared_picture
from .sheet import open_sheet


@spared_picture
def draw_gallery(
    pictures: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], str]], path: str | Path, *, columns: int = 4
) -> None:
    """Draws slices with the outline of their segmentation and a line of text above each.

    Args:
        pictures: Pictures of three parts each: slice ``(H, W)``, or ``(H, W, 3)`` in colors; segmentation ``(H, W)``,
            above 0 in the foreground; text.
        path: Path of the PNG file that is written.
        columns: Number of pictures side by side, at least 1; 4 by default.
    """
    rows = -(-len(pictures) // columns)
    tallest = max(image.shape[1] / image.shape[0] for image, _, _ in pictures)
    with open_sheet(
        path, columns=columns, rows=rows, size=(3.2 * columns, (2.8 * min(tallest, 1.0) + 0.7) * rows)
    ) as axes:
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


@spared_picture
def draw_side_by_side(
    rows: Sequence[tuple[str, NDArray[np.float32], Sequence[NDArray[np.float32]]]],
    titles: Sequence[str],
    classes: int,
    path: str | Path,
) -> None:
    """Draws, for every case, its image and maps of classes beside it.

    Args:
        rows: Cases of three parts each: name, slice ``(H, W)`` or ``(H, W, 3)``, and maps of class indices ``(H, W)``.
        titles: Titles above the maps, one for each.
        classes: Number of the foreground classes, so that each has one color everywhere.
        path: Path of the PNG file that is written.
    """
    columns = len(titles) + 1
    with open_sheet(path, columns=columns, rows=len(rows), size=(2.6 * columns, 2.7 * len(rows))) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (name, picture, maps) in zip(axes, rows, strict=True):
            draw_slice(line[0], picture)
            line[0].set_title(name, fontsize="x-small")
            for axis, indices, title in zip(line[1:], maps, titles, strict=True):
                origin = "upper" if picture.ndim == 3 else "lower"
                axis.imshow(indices.T, cmap="turbo", vmin=0, vmax=max(classes, 1), origin=origin, interpolation="none")
                axis.set_title(title, fontsize="x-small")


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
    with open_sheet(path, columns=3, rows=len(rows), size=(8.4, 2.4 * len(rows) + 0.4)) as axes:
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
    with open_sheet(path, columns=3, rows=len(rows), size=(7.8, 2.7 * len(rows))) as axes:
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
