"""Measures the Dice of probabilities, which sees a rare class before its first voxel wins."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from torch import Tensor

from ..errors import ConfigError
from .masks import class_masks


def soft_dice(y_pred: Tensor, y: Tensor) -> Tensor:
    """Returns ``2 * sum(p * y) / (sum(p) + sum(y))`` of every image and foreground class.

    Args:
        y_pred: Softmax probabilities in [0, 1], ``(B, C, H, W[, D])``, background first.
        y: Class indices from 0 to ``C - 1``, ``(B, 1, H, W[, D])``.

    Returns:
        ``(B, C - 1)`` in [0, 1]; NaN for a class that is not in the label.

    Raises:
        ConfigError: When the shapes do not fit.
    """
    if y.shape != (len(y_pred), 1, *y_pred.shape[2:]):
        raise ConfigError(
            f"y has the shape {tuple(y.shape)} beside y_pred {tuple(y_pred.shape)}; accepted are class indices "
            "(B, 1, H, W[, D]) beside probabilities (B, C, H, W[, D])"
        )
    predicted, truth = y_pred[:, 1:].flatten(2), class_masks(y, y_pred.shape[1])[:, 1:].flatten(2)
    voxels = truth.sum(dim=2)
    dice = 2 * (predicted * truth).sum(dim=2) / (predicted.sum(dim=2) + voxels)
    return torch.where(voxels > 0, dice, torch.nan)


class SoftDice(CumulativeIterationMetric):
    """Mean of :func:`soft_dice` over images and foreground classes, over all processes; 0 without any.

    By it the best epoch of a training is chosen: at the beginning, the most probable class of no voxel is a rare one.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_kwargs: Any) -> Tensor:
        """Values of a batch of softmax ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``."""
        assert y is not None
        return soft_dice(y_pred, y)

    def aggregate(self) -> Tensor:
        """Returns the mean of all that was added."""
        mean, _ = do_metric_reduction(self.get_buffer(), "mean")
        return mean
