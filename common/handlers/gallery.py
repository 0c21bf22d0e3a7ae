"""Draws a few slices of every group that an evaluation judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from ..figures import draw_gallery
from ..figures.slices import telling_slice
from .recorder import quality_text

Picture = tuple[NDArray[np.float32], NDArray[np.float32], str]


class EvaluationGallery:
    """Writes ``gallery.png``: of every group the first cases, with the outline of the segmentation and the verdict.

    Args:
        output_dir: Folder of the picture.
        softmax: Whether the first channel of a prediction is the background's, as after a softmax; else a voxel is
            foreground where any channel exceeds 0.5. Default false.
        pictures: Number of cases shown of each group, at least 1. Default 2.
    """

    def __init__(self, output_dir: str, softmax: bool = False, pictures: int = 2) -> None:
        self.output_dir, self.softmax, self.pictures = Path(output_dir), softmax, pictures
        self.groups: dict[str, list[Picture]] = {}

    def attach(self, engine: Engine) -> None:
        """Attaches to an evaluation engine that works case by case."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def reset(self) -> None:
        """Forgets all pictures."""
        self.groups = {}

    def __call__(self, engine: Engine) -> None:
        """Keeps a slice of a case, unless there are enough of its group or the case failed."""
        batch, output = engine.state.batch[0], engine.state.output[0]  # type: ignore[index]
        shown = self.groups.setdefault(str(batch.get("group", "")), [])
        if "error" in output or len(shown) >= self.pictures:
            return
        pred = output["pred"]
        foreground = pred.argmax(dim=0, keepdim=True) > 0 if self.softmax else (pred > 0.5).any(dim=0, keepdim=True)
        shown.append((*telling_slice(batch["image"], foreground), gallery_title(batch, output)))

    def draw(self) -> None:
        """Draws the picture, one group after the other; nothing without a case."""
        pictures = [picture for group in self.groups.values() for picture in group]
        if pictures:
            draw_gallery(pictures, self.output_dir / "gallery.png", columns=3 if len(pictures) % 4 else 4)


def gallery_title(batch: dict[str, Any], output: dict[str, Any]) -> str:
    """Returns the lines above a slice: its group, the Dice of its segmentation, and the verdict."""
    dice = [channel["dsc"] for channel in output.get("metrics", {}).values()]
    measured = f", Dice {np.nanmean(dice):.2f}" if dice and not np.isnan(dice).all() else ""
    result = output.get("result") or {}
    verdict = "no verdict"
    if result.get("oodm") is not None:
        word = "OUT OF DISTRIBUTION" if result["is_ood"] else "in distribution"
        quality = quality_text(result)
        verdict = f"{word}\nOODM {result['oodm']:.4f}, threshold {result['threshold']:.4f}"
        verdict += f"\n{quality}" if quality else ""
    return f"{batch.get('group', '')}{measured}\n{verdict}"
