"""Draws anomaly maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..figures import draw_maps
from ..figures.slices import telling_slice
from ..runtime.sparing import spared_picture
from .foreground import THRESHOLD, foreground_mask
from .localization import by_patient
from .score import anomaly_score
from .slice_datasets import PreparedSlice, SliceDataset


@spared_picture
@torch.no_grad()
def draw_anomaly_maps(
    dataset: SliceDataset,
    denoiser: nn.Module,
    device: torch.device,
    path: str | Path,
    *,
    foreground_threshold: float = THRESHOLD,
    bright_channel: int | None = None,
    pictures: int = 8,
) -> None:
    """Draws, of several patients, the slice with most foreground: image, truth, reconstruction, anomaly score.

    Args:
        dataset: Labeled slices.
        denoiser: Denoiser in evaluation mode.
        device: Device that the denoiser runs on.
        path: Path of the PNG.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        bright_channel: Channel in which what is abnormal is brighter, see :func:`anomaly_score`. None by default.
        pictures: Number of patients shown, spread evenly over all. 8 by default.
    """
    groups = by_patient(dataset)
    names = sorted(groups)
    chosen = [
        names[place] for place in np.unique(np.linspace(0, len(names) - 1, min(pictures, len(names))).astype(int))
    ]
    rows = []
    for name in chosen:
        item = max(groups[name], key=_foreground)
        image = item.image[None].to(device)
        rebuilt = denoiser(image)
        score = anomaly_score(image, rebuilt, foreground_threshold=foreground_threshold, bright_channel=bright_channel)
        # What lies outside the foreground is never learned.
        rebuilt = rebuilt * foreground_mask(image, foreground_threshold=foreground_threshold, channel_dim=1)
        parts = [part[0].cpu() for part in (image, rebuilt, score)]
        assert item.label is not None
        truth = item.label.float()
        picture, outline = telling_slice(parts[0], truth)
        maps: Sequence[NDArray[np.float32]] = [telling_slice(part, truth)[0] for part in (parts[1], parts[2])]
        rows.append((name, picture, outline, maps[0], maps[1]))
    draw_maps(rows, path)


def _foreground(item: PreparedSlice) -> int:
    """Voxels of the label that are not background."""
    return 0 if item.label is None else int((item.label > 0).sum())
