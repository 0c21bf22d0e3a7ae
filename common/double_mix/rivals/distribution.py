"""Estimates how often each class is predicted or labeled, and corrects predictions by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...metrics.masks import class_masks
from ...runtime.distributed import sum_over_processes

SMALLEST = 1e-6
"""Smallest share of a class, so that logarithms and ratios are finite."""


class PredictedShares(nn.Module):
    """Exponential moving average of the mean softmax over unlabeled voxels, all classes alike before the first one.

    Args:
        num_classes: Number of classes C, background included.
        momentum: Momentum of the average, in [0, 1]; 0.999 by default.
    """

    shares: Tensor

    def __init__(self, num_classes: int, *, momentum: float = 0.999) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("shares", torch.full((num_classes,), 1 / num_classes))

    @torch.no_grad()
    def update(self, probability: Tensor) -> Tensor:
        """Returns the shares ``(C,)`` after one more batch of probabilities ``(B, C, H, W[, D])``, of all processes."""
        total = sum_over_processes(probability.sum([0, *range(2, probability.ndim)]))
        return self.shares.lerp_(total / total.sum(), 1 - self.momentum)


class LabeledCounts(nn.Module):
    """Counts the voxels of each class in all labeled images that were learned from.

    Args:
        num_classes: Number of classes C, background included.
    """

    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def update(self, label: Tensor) -> Tensor:
        """Returns the counts ``(C,)``, at least 1 each, after one more batch of class indices, of all processes."""
        masks = class_masks(label, len(self.counts))
        self.counts += sum_over_processes(masks.sum([0, *range(2, label.ndim)]).double())
        return self.counts.clamp_min(1)


def debias(logits: Tensor, shares: Tensor, strength: float) -> Tensor:
    """Returns ``logits - strength * log(shares)``: what is often predicted becomes less likely.

    Args:
        logits: Logits, ``(B, C, H, W[, D])``.
        shares: Share of each class, ``(C,)``.
        strength: Factor of the logarithm; below 0, it is added.
    """
    logarithm = shares.clamp_min(SMALLEST).log().to(logits.dtype)
    return logits - strength * logarithm.reshape(-1, *[1] * (logits.ndim - 2))


def align(probability: Tensor, predicted: Tensor, labeled: Tensor, temperature: float) -> Tensor:
    """Returns probabilities times ``labeled ** temperature / predicted``, normalized over the classes.

    Args:
        probability: Softmax probabilities, ``(B, C, H, W[, D])``.
        predicted: Share of each class among predictions, ``(C,)``.
        labeled: Share of each class among labels, ``(C,)``.
        temperature: Exponent of the labeled shares, in [0, 1]; with 1, predictions are brought to them, with 0 to equal
            shares.
    """
    target = labeled.clamp_min(SMALLEST) ** temperature
    ratio = (target / target.sum() / predicted.clamp_min(SMALLEST)).to(probability.dtype)
    aligned = probability * ratio.reshape(-1, *[1] * (probability.ndim - 2))
    return aligned / aligned.sum(dim=1, keepdim=True)


def rebalancing_rates(counts: Tensor, exponent: float) -> Tensor:
    """Returns the rate at which pseudo labels of each class are kept, ``(C,)`` in (0, 1]: 1 for the rarest.

    With the classes sorted from the most to the least frequent, the l-th of L has the rate
    ``(N_(L + 1 - l) / N_1) ** exponent``.

    Args:
        counts: Number of voxels of each class, ``(C,)``, above 0.
        exponent: Exponent, at least 0; 0 keeps all.

    Example:
        >>> rebalancing_rates(torch.tensor([1000.0, 1.0, 125.0]), 1 / 3)
        tensor([0.1000, 1.0000, 0.5000])
    """
    ordered, places = counts.sort(descending=True)
    rates = (ordered.flip(0) / ordered[0]) ** exponent
    return torch.zeros_like(rates).scatter_(0, places, rates)
