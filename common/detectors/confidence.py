"""Measures how sure a network is of a segmentation, as the Dice that its own probabilities let expect."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import FeatureError

CHUNK = 1_048_576
"""Voxels whose probabilities are computed at once, so that memory does not grow with the image."""


def soft_dice_confidence(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Returns the Soft Dice Confidence, the Dice of a segmentation with the probabilities that it was made from.

    Borges, Pacheco and Silva, *Soft Dice Confidence: A Near-Optimal Confidence Estimator for Selective Prediction in
    Semantic Segmentation*, arXiv 2402.10665, 2024. Theirs is for one class; this is the mean over the classes that are
    predicted at least once. Where there is none, nothing is sure: 0.

    Args:
        logits: Logits, ``(K, H, W[, D])``.
        sigmoid: Whether each channel is a class by itself, foreground where it is likelier than not; else class 0 is
            background. Default false.

    Returns:
        ``(1,)`` float64 in [0, 1] on the CPU; higher means surer.

    Raises:
        FeatureError: When the logits are not finite.

    Example:
        >>> soft_dice_confidence(torch.tensor([[[20.0, 20.0, -20.0, -20.0]]]), sigmoid=True)
        tensor([1.0000], dtype=torch.float64)
    """
    sums = torch.zeros(3, len(logits), dtype=torch.float64, device=logits.device)
    for chunk in logits.detach().flatten(1).split(CHUNK, dim=1):
        values = chunk.float()
        probabilities = values.sigmoid() if sigmoid else values.softmax(dim=0)
        chosen = values > 0 if sigmoid else values == values.amax(dim=0)
        for total, part in zip(sums, (probabilities * chosen, probabilities, chosen), strict=True):
            total += part.sum(dim=1, dtype=torch.float64)
    if not bool(torch.isfinite(sums).all()):
        raise FeatureError("the output of the network holds NaN or infinite values: how sure it is cannot be told")
    shared, probable, predicted = sums if sigmoid else sums[:, 1:]
    dice = (2 * shared / (probable + predicted))[predicted > 0]
    return dice.mean().reshape(1).cpu() if dice.numel() else torch.zeros(1, dtype=torch.float64)
