"""Measures the Dice of probabilities over a whole set of images, by which the best epoch of a training is chosen."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from ..errors import ConfigError
from .masks import class_masks


def soft_dice_sums(y_pred: Tensor, y: Tensor) -> Tensor:
    """Returns what the soft Dice of a set is computed from: sums over the voxels of each image.

    Args:
        y_pred: Softmax probabilities in [0, 1], ``(B, C, H, W[, D])``, background first; or a probability for each of
            K foreground classes, ``(B, K, H, W[, D])``, beside ``y`` with as many channels.
        y: Class indices from 0 to ``C - 1``, ``(B, 1, H, W[, D])``; or zeros and ones, ``(B, K, H, W[, D])``.

    Returns:
        ``(B, K, 3)``: for every image and foreground class the sums of ``p * y``, ``p`` and ``y``; K is ``C - 1`` for
        class indices.

    Raises:
        ConfigError: When the shapes do not fit.
    """
    if y.shape == y_pred.shape:
        return _sums(y_pred.flatten(2), y.flatten(2))
    if y.shape != (len(y_pred), 1, *y_pred.shape[2:]):
        raise ConfigError(
            f"y has the shape {tuple(y.shape)} beside y_pred {tuple(y_pred.shape)}; accepted are class indices "
            "(B, 1, H, W[, D]) beside probabilities (B, C, H, W[, D]), or as many channels as those"
        )
    return _sums(y_pred[:, 1:].flatten(2), class_masks(y, y_pred.shape[1])[:, 1:].flatten(2))


def _sums(probability: Tensor, truth: Tensor) -> Tensor:
    """Sums over voxels, ``(B, K, 3)``, of two tensors ``(B, K, N)``."""
    return torch.stack([(probability * truth).sum(2), probability.sum(2), truth.sum(2)], dim=2)


def pooled_soft_dice(sums: Tensor) -> Tensor:
    """Returns ``2 * sum(p * y) / (sum(p) + sum(y))`` of every foreground class over all images together.

    A false positive costs as much in an image without the class as in one with it.

    Args:
        sums: ``(B, C - 1, 3)``, see :func:`soft_dice_sums`.

    Returns:
        ``(C - 1,)`` in [0, 1]; NaN for a class that no image holds.
    """
    shared, predicted, truth = sums.double().sum(dim=0).unbind(-1)
    return torch.where(truth > 0, 2 * shared / (predicted + truth), torch.nan)


class SoftDice(CumulativeIterationMetric):
    """Mean over foreground classes of :func:`pooled_soft_dice`, over all processes; 0 where no image has foreground.

    It sees a rare class before that is the most probable one of any voxel.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_kwargs: Any) -> Tensor:
        """Sums of a batch of softmax ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``."""
        assert y is not None
        return soft_dice_sums(y_pred, y)

    def aggregate(self) -> Tensor:
        """Returns the mean over the classes that any image holds."""
        sums = self.get_buffer()
        assert isinstance(sums, Tensor)
        return pooled_soft_dice(sums).nanmean().nan_to_num()
