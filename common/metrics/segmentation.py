"""Measures a segmentation against its ground truth, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from torch import Tensor

from ..calibration import boundary_band, calibration_bins, errors_from_bins

METRICS = ("dsc", "hd95", "assd", "ece", "mce")
DISTANCES = ("hd95", "assd")
"""Metrics with a unit: those of surfaces."""

MM, PIXELS = "mm", "pixels"
THRESHOLD = 0.5
"""Probability above which a voxel is foreground."""


def measure_segmentation(
    y_pred: Tensor,
    y: Tensor,
    spacing: Sequence[float],
    *,
    segmentation: Tensor | None = None,
    threshold: float = THRESHOLD,
    width: float = 10,
    num_bins: int = 10,
) -> tuple[dict[str, float], Tensor]:
    """Returns the metrics of one structure in one case.

    Karimi and Gholipour 2023: DSC, HD95 and ASSD are those of the thresholded prediction. ECE and MCE are those of the
    probabilities in the band around the ground truth's surface.

    Args:
        y_pred: Predicted probability of the structure, ``(H, W[, D])`` in [0, 1].
        y: Ground truth, ``(H, W[, D])``, zero or one.
        spacing: Size of a voxel along each axis, in mm, above 0; 1 for pictures, whose distances are in pixels.
        segmentation: Predicted structure, ``(H, W[, D])``, nonzero inside; by default where ``y_pred`` is above
            ``threshold``.
        threshold: Probability above which a voxel is foreground, in [0, 1]; 0.5 by default.
        width: Half width of the band of ECE and MCE, in voxels; 10 in the paper.
        num_bins: Number of equal bins of ECE and MCE; 10 by default.

    Returns:
        ``dsc`` in [0, 1], ``hd95`` and ``assd`` in the unit of the spacing, ``ece`` and ``mce`` in [0, 1]; NaN where a
        metric does not exist (no ground truth; no prediction, for the distances). Then the calibration bins
        ``(3, num_bins)``.

    Raises:
        ConfigError: When shapes differ or a probability lies outside [0, 1].
    """
    predicted = (y_pred > threshold if segmentation is None else segmentation > 0)[None, None]
    truth = (y > 0)[None, None]
    bins = calibration_bins(y_pred.float(), y.float(), num_bins=num_bins, mask=boundary_band(y, width))
    ece, mce = errors_from_bins(bins)
    distances = (math.nan, math.nan)
    if bool(truth.any()) and bool(predicted.any()):
        settings: dict[str, Any] = {"include_background": True, "spacing": [float(size) for size in spacing]}
        distances = (
            float(compute_hausdorff_distance(predicted, truth, percentile=95, **settings)),
            float(compute_average_surface_distance(predicted, truth, symmetric=True, **settings)),
        )
    dsc = float(compute_dice(predicted, truth, ignore_empty=True))
    return dict(zip(METRICS, (dsc, *distances, ece, mce), strict=True)), bins


def metric_title(metric: str, unit: str) -> str:
    """Returns a metric as tables and axes name it: with its unit, where it has one.

    Args:
        metric: Name of the metric.
        unit: Unit of distances.

    Example:
        >>> metric_title("hd95", "mm"), metric_title("dsc", "mm")
        ('hd95 (mm)', 'dsc')
    """
    return f"{metric} ({unit})" if metric in DISTANCES else metric


def count_overlap(predicted: Tensor, truth: Tensor) -> tuple[int, int, int]:
    """Returns numbers of voxels: in both masks, in the prediction, in the ground truth.

    Args:
        predicted: Predicted structure of any shape, nonzero inside.
        truth: Ground truth of the same shape, nonzero inside.

    Example:
        >>> import torch
        >>> count_overlap(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]))
        (1, 2, 1)
    """
    inside, true = predicted > 0, truth > 0
    return int((inside & true).sum()), int(inside.sum()), int(true.sum())


def pooled_overlap_dice(overlaps: Iterable[Sequence[int]]) -> float:
    """Returns the Dice over all voxels of several cases together, which false positives on empty cases lower.

    Args:
        overlaps: Counts of every case, as :func:`count_overlap` gives them.

    Returns:
        Dice in [0, 1]; NaN where no case has the structure.
    """
    shared, predicted, truth = (sum(counts) for counts in zip(*overlaps, strict=True))
    return 2 * shared / (predicted + truth) if truth else math.nan


def mean_class_dice(y_pred: Tensor, y: Tensor) -> float:
    """Returns the Dice of one case, averaged over the classes of its ground truth; NaN without foreground there.

    Args:
        y_pred: Class numbers, ``(1, H, W[, D])``, 0 for the background; or a mask for each class, ``(K, H, W[, D])``.
        y: Ground truth of the same form.
    """
    pairs = [(y_pred[0] == number, y[0] == number) for number in torch.unique(y[0]).tolist() if number > 0]
    if len(y) > 1:
        pairs = [(mask > 0, truth > 0) for mask, truth in zip(y_pred, y, strict=True) if bool(truth.any())]
    if not pairs:
        return math.nan
    dices = [2.0 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()) for mask, truth in pairs]
    return math.fsum(dices) / len(dices)
