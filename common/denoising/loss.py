"""Computes the loss of denoising, and both validation losses as metrics of which higher is better."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from ..metrics.masks import class_masks
from .foreground import THRESHOLD, foreground_mask


def squared_errors(input: Tensor, target: Tensor, foreground_threshold: float = THRESHOLD) -> tuple[Tensor, Tensor]:
    """Returns, for every image, the sum of squared errors over the foreground of the target, and how many those are.

    Args:
        input: Reconstruction, ``(B, C, H, W[, D])``.
        target: Clean image of the same shape.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.

    Returns:
        Two tensors ``(B,)``; every channel of a foreground voxel counts.
    """
    mask = foreground_mask(target, foreground_threshold=foreground_threshold, channel_dim=1)
    errors = ((input - target).square() * mask).flatten(1).sum(dim=1)
    return errors, mask.flatten(1).sum(dim=1) * target.shape[1]


class DenoisingLoss(nn.Module):
    """Squared error averaged over the foreground of a batch (Holzschuh et al., MIDL 2023).

    Args:
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.

    Example:
        >>> target = torch.tensor([[[[0.0, 1.0]]]])
        >>> float(DenoisingLoss()(target + 2, target))
        4.0
    """

    def __init__(self, foreground_threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.foreground_threshold = foreground_threshold

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of a reconstruction, of the shape of the target; 0 where nothing is foreground."""
        errors, numbers = squared_errors(input, target, self.foreground_threshold)
        return errors.sum() / numbers.sum().clamp(min=1)


class NegativeDenoisingLoss(CumulativeIterationMetric):
    """Minus the :class:`DenoisingLoss` over a whole set, all processes together; higher is better.

    Args:
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
    """

    def __init__(self, foreground_threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.foreground_threshold = foreground_threshold

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_kwargs: Any) -> Tensor:
        """Sums of a batch of reconstructions and clean images."""
        assert y is not None
        return torch.stack(squared_errors(y_pred, y, self.foreground_threshold), dim=1)

    def aggregate(self) -> Tensor:
        """Returns the mean over everything that was added."""
        errors, numbers = self.get_buffer().sum(dim=0)
        return -errors / numbers.clamp(min=1)


class NegativeSegmentationLoss(CumulativeIterationMetric):
    """Minus the sum of soft Dice loss and cross entropy over a whole set, all processes together; higher is better.

    By it the weights are chosen: "models were selected and saved based on lowest validation loss" (Holzschuh et al.).
    The Dice is pooled over the set and averaged over foreground classes. So it does not depend on how slices are put
    into batches, and slices without foreground count as what they are.

    Args:
        smooth: Number added to both terms of the Dice's fraction, for classes that the set does not have. 1 by default.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.smooth = smooth

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_kwargs: Any) -> Tensor:
        """Sums of a batch of logits ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``."""
        assert y is not None
        logs = y_pred.float().log_softmax(dim=1)
        truth = class_masks(y, y_pred.shape[1])[:, 1:].flatten(2)
        predicted = logs[:, 1:].exp().flatten(2)
        entropy = nll_loss(logs, y[:, 0].long(), reduction="none").flatten(1)
        sums = [(predicted * truth).sum(dim=2), predicted.sum(dim=2) + truth.sum(dim=2)]
        counts = torch.full((len(y), 1), float(entropy.shape[1]), device=entropy.device)
        return torch.cat([*sums, entropy.sum(dim=1, keepdim=True), counts], dim=1)

    def aggregate(self) -> Tensor:
        """Returns minus the loss of everything that was added."""
        sums = self.get_buffer().double().sum(dim=0)
        classes = (len(sums) - 2) // 2
        both, together = sums[:classes], sums[classes : 2 * classes]
        dice = (2 * both + self.smooth) / (together + self.smooth)
        return dice.mean() - 1 - sums[-2] / sums[-1]
