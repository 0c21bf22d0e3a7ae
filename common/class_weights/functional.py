"""Computes class weights: what happened in a batch, class by class, and what follows from it.

Class 0 is background. Nothing here waits for the device, and no loop runs over classes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..metrics.masks import class_masks
from ..runtime.distributed import sum_over_processes

EPSILON = 1e-8
"""Smallest Dice, and what is added to both terms of the learning speed."""

INFORMATION_OFFSET = 0.01
"""Added to both terms of the information, so that a class of full confidence keeps some weight."""


WeightScale = Literal["mean", "maximum"]
"""How weights are scaled for losses: to a mean of 1, or to a largest of the number of classes, as in the source."""


class ClassStatistics(NamedTuple):
    """Sums over the voxels of one batch, over all processes; each ``(C,)`` float64.

    Args:
        truth: Number of voxels of each class in the ground truth of the labeled images.
        predicted: Number of voxels of each class in the network's segmentation of the labeled images.
        overlap: Number of voxels of each class in both.
        confidence: Sum of the network's probability of each class over the voxels that truly are of that class.
        pseudo: Number of voxels of each class in the network's segmentation of the unlabeled images.
    """

    truth: Tensor
    predicted: Tensor
    overlap: Tensor
    confidence: Tensor
    pseudo: Tensor


def most_probable(scores: Tensor) -> Tensor:
    """Returns the class indices ``(B, 1, H, W[, D])`` of logits or probabilities ``(B, C, H, W[, D])``."""
    # On a CPU, torch's argmax over a leading axis takes 18 times as long.
    return scores.detach().max(dim=1, keepdim=True).indices


@torch.no_grad()
def class_statistics(probability: Tensor, label: Tensor, pseudo_label: Tensor | None = None) -> ClassStatistics:
    """Returns what the weights need to know of one batch, summed over all processes.

    Args:
        probability: Softmax probabilities of the network on the labeled images, ``(B, C, H, W[, D])``.
        label: Class indices of the labeled images, ``(B, 1, H, W[, D])``, from 0 to ``C - 1``.
        pseudo_label: Class indices that the network gives the unlabeled images, ``(B, 1, H, W[, D])``. With ``None``,
            the default, no voxel is counted.
    """
    num_classes = probability.shape[1]
    truth = class_masks(label, num_classes)
    predicted = class_masks(most_probable(probability), num_classes)
    axes = [0, *range(2, probability.ndim)]
    sums = [part.sum(axes).double() for part in (truth, predicted, truth & predicted, truth * probability)]
    pseudo = torch.zeros_like(sums[0])
    if pseudo_label is not None:
        pseudo = class_masks(pseudo_label, num_classes).sum(axes).double()
    return ClassStatistics(*sum_over_processes(torch.stack([*sums, pseudo])).unbind())


def distribution_weight(counts: Tensor) -> Tensor:
    """Returns DisW: ``log r_c / max_k log r_k`` with ``r_c = max(a) / a_c``; the rarest class has weight 1.

    Args:
        counts: Numbers of voxels of each class, ``(C,)``, or their shares. A class without voxels counts as one voxel
            or, among shares, as the smallest one above 0.

    Returns:
        ``(C,)`` in [0, 1]; all ones when the classes are balanced.

    Raises:
        ConfigError: When ``counts`` has another number of axes.

    Example:
        >>> distribution_weight(torch.tensor([1000, 100, 10]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    values = torch.as_tensor(counts)
    if values.ndim != 1:
        raise ConfigError(f"counts has shape {tuple(values.shape)}; expected is one number for each class")
    kind = values.dtype if values.is_floating_point() else torch.get_default_dtype()
    # Where logarithms are equal, float32 may not say so.
    values = values.double()
    smallest = torch.where(values > 0, values, torch.inf).min().clamp_max(1)
    amounts = torch.where(values > 0, values, smallest)
    ratios = (amounts.max() / amounts).log()
    return _share_of_largest(ratios).to(kind)


def class_shares(counts: Tensor) -> Tensor:
    """Returns the share of voxels of each class, ``(C,)``; a class without voxels counts as one voxel."""
    filled = counts.clamp_min(1)
    return filled / filled.sum()


def class_dice(statistics: ClassStatistics) -> Tensor:
    """Returns the Dice coefficient of each class over the labeled batch, ``(C,)``, at least ``1e-8``."""
    total = statistics.truth + statistics.predicted
    return (2 * statistics.overlap / total.clamp_min(1)).clamp_min(EPSILON)


def learning_terms(dice: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how much each class was learned and unlearned since the previous step, both at least 0.

    They are ``max(D, 0) * ln(d_t / d_(t-1))`` and ``min(D, 0) * ln(d_t / d_(t-1))`` with ``D = d_t - d_(t-1)``. These
    are the terms of a population stability index.

    Args:
        dice: Dice of each class at this step, ``d_t``, ``(C,)``, in (0, 1].
        previous: Dice of each class at the step before, ``d_(t-1)``, ``(C,)``, in (0, 1].
    """
    change, ratio = dice - previous, (dice / previous).log()
    return change.clamp_min(0) * ratio, change.clamp_max(0) * ratio


def learning_speed(learned: Tensor, unlearned: Tensor, *, alpha: float = 0.2) -> Tensor:
    """Returns ``((u + 1e-8) / (l + 1e-8)) ** alpha``, high for a class that is unlearned."""
    return ((unlearned + EPSILON) / (learned + EPSILON)) ** alpha


def class_information(confidence: Tensor) -> Tensor:
    """Returns the information of each class, ``(1 - q_c + 0.01) / (max_k(1 - q_k) + 0.01)``, in (0, 1].

    Args:
        confidence: Mean probability of each class over the voxels that truly are of that class: ``q``, ``(C,)``, in [0,
            1].
    """
    doubt = 1 - confidence
    return (doubt + INFORMATION_OFFSET) / (doubt.max() + INFORMATION_OFFSET)


def scale_weight(weight: Tensor) -> Tensor:
    """Returns the weights scaled to a maximum of 1; all ones where all are zero."""
    return _share_of_largest(weight)


def loss_weight(weight: Tensor) -> Tensor:
    """Returns the weights as losses take them: scaled to a maximum of 1, times the number of classes."""
    return scale_weight(weight) * weight.numel()


def limit_weight(weight: Tensor, *, min_weight: float = 0.3, weight_scale: WeightScale = "mean") -> Tensor:
    """Returns weights of which none is too small, scaled so that they leave the step of an optimizer as it is.

    Args:
        weight: Weights as :func:`loss_weight` gives them, ``(C,)``, at least one above 0.
        min_weight: Smallest weight, as a share of the largest, in [0, 1]. 0.3 by default; 0, the source's, leaves
            background without any under DisW.
        weight_scale: ``mean``, the default, for weights that sum to the number of classes; ``maximum`` leaves the
            largest as it is.

    Example:
        >>> limit_weight(torch.tensor([0.0, 1.5, 3.0]), min_weight=0.5)
        tensor([0.7500, 0.7500, 1.5000])
    """
    limited = torch.maximum(weight, min_weight * weight.max())
    return limited if weight_scale == "maximum" else limited * (limited.numel() / limited.sum())


def _share_of_largest(values: Tensor) -> Tensor:
    """Values over their largest, which is not negative; all ones where that is zero."""
    largest = values.max()
    return torch.where(largest > 0, values / largest.clamp_min(torch.finfo(values.dtype).tiny), 1)
