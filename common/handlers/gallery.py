"""Draws a few slices of every group that an evaluation judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from ..dicom.describe import class_labels
from ..figures import draw_gallery
from ..figures.slices import telling_slice
from ..page import thumbnail, thumbnail_limit
from ..runtime.sparing import sparing
from .recorder import oodm_text, quality_text

Picture = tuple[NDArray[np.float32], NDArray[np.float32], str]


class EvaluationGallery:
    """Writes ``gallery.png``: of every group the first cases, with the outlines of the classes and the verdict.

    Also keeps a small picture of every case in ``thumbnails``, in the order of the cases, for ``report.html``.

    Args:
        output_dir: Folder of the picture.
        softmax: Whether the first channel of a prediction is the background's, as after a softmax; else a voxel is
            foreground where any channel exceeds 0.5. Default false.
        pictures: Number of cases shown of each group, at least 1. Default 2.
        metadata_file: File ``configs/metadata.json`` of the bundle, after which the legend names classes. Default none.
        class_names: Index of a class, as a text -> its name, of weights that were trained on other classes. Default
            none: those of the metadata.
    """

    def __init__(
        self,
        output_dir: str,
        softmax: bool = False,
        pictures: int = 2,
        *,
        metadata_file: str | None = None,
        class_names: Mapping[str, str] | None = None,
    ) -> None:
        self.output_dir, self.softmax, self.pictures = Path(output_dir), softmax, pictures
        self.metadata_file, self.class_names = metadata_file, class_names
        self.groups: dict[str, list[Picture]] = {}
        self.thumbnails: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to an evaluation engine that works case by case."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def reset(self) -> None:
        """Forgets all pictures."""
        self.groups, self.thumbnails = {}, []

    def __call__(self, engine: Engine) -> None:
        """Keeps the thumbnail of a case, and a slice unless its group has enough; nothing of one that failed."""
        batch, output = engine.state.batch[0], engine.state.output[0]  # type: ignore[index]
        shown = self.groups.setdefault(str(batch.get("group", "")), [])
        self.thumbnails.append("")
        if "error" in output:
            return
        # It lies on the grid of the image, whatever the transforms between have made of its affine.
        classes = class_map(output["pred"], rivals=self.softmax).as_subclass(Tensor)
        with sparing(f"the picture of {batch.get('case', 'a case')} in report.html"):
            limit = thumbnail_limit(engine.state.epoch_length or 1)
            self.thumbnails[-1] = thumbnail(batch["image"], classes, limit=limit)
        if len(shown) < self.pictures:
            shown.append((*telling_slice(batch["image"], classes), gallery_title(batch, output)))

    def draw(self) -> None:
        """Draws the picture, one group after the other; nothing without a case."""
        pictures = [picture for group in self.groups.values() for picture in group]
        if pictures:
            with sparing("gallery.png"):
                names = class_labels(self.metadata_file, self.class_names)
                columns = 3 if len(pictures) % 4 else 4
                draw_gallery(pictures, self.output_dir / "gallery.png", columns=columns, names=names)


def class_map(pred: Tensor, *, rivals: bool, threshold: float = 0.5) -> Tensor:
    """Returns class indices ``(1, H, W[, D])``; of channels that overlap, the last one counts.

    Args:
        pred: Probabilities or logits, ``(K, H, W[, D])``.
        rivals: Whether the largest channel counts, the first of which is background; else each is a class by itself.
        threshold: Value above which a class by itself is foreground: 0.5, the default, for probabilities, 0 for logits.
    """
    if rivals:
        return pred.argmax(dim=0, keepdim=True)
    numbers = torch.arange(1, len(pred) + 1, device=pred.device).reshape(-1, *[1] * (pred.ndim - 1))
    return ((pred > threshold) * numbers).amax(dim=0, keepdim=True)


def gallery_title(batch: dict[str, Any], output: dict[str, Any]) -> str:
    """Returns the lines above a slice: its group, the Dice of its segmentation, and the verdict."""
    dice = [channel["dsc"] for channel in output.get("metrics", {}).values()]
    measured = f", Dice {np.nanmean(dice):.2f}" if dice and not np.isnan(dice).all() else ""
    result = output.get("result") or {}
    verdict = "no verdict"
    if result.get("oodm") is not None:
        word = "OUT OF DISTRIBUTION" if result["is_ood"] else "in distribution"
        quality = quality_text(result)
        verdict = f"{word}\n{oodm_text(result)}"
        verdict += f"\n{quality}" if quality else ""
    return f"{batch.get('group', '')}{measured}\n{verdict}"
