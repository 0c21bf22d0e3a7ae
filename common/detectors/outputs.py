"""Measures how sure a network is of its foreground, from its logits alone; higher means more abnormal.

A network with one sigmoid channel is one of two classes with the logits 0 and z; with several sigmoid channels, z is
the largest of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def class_logits(logits: Tensor, *, softmax: bool = False) -> Tensor:
    """Returns logits of classes, background first.

    Args:
        logits: Logits of a network, ``(B, K, H, W[, D])``.
        softmax: Whether they are those of a softmax, background first; else of sigmoid channels without background.
            Default false.

    Returns:
        ``(B, C, H, W[, D])``: the same for a softmax, else of two classes.
    """
    if softmax:
        return logits
    foreground = logits.amax(dim=1, keepdim=True)
    return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


def segment(logits: Tensor, *, softmax: bool = False) -> Tensor:
    """Returns the predicted foreground channels, bool; arguments are those of :func:`class_logits`.

    Returns:
        ``(B, K, H, W[, D])`` of sigmoid channels, ``(B, C - 1, H, W[, D])`` of a softmax.
    """
    if not softmax:
        return logits > 0
    best = logits.argmax(dim=1)
    return torch.stack([best == index for index in range(1, logits.shape[1])], dim=1)


def foreground_mean(values: Tensor, logits: Tensor, without: float) -> float:
    """Returns the mean of a map over the predicted foreground.

    Args:
        values: Value of every voxel, ``(B, H, W[, D])``.
        logits: Logits of classes, ``(B, C, H, W[, D])``, background first.
        without: Value where no foreground is predicted.
    """
    chosen = values[logits.argmax(dim=1) > 0]
    return float(chosen.double().mean()) if chosen.numel() else without


def entropy(probabilities: Tensor) -> Tensor:
    """Returns the entropy over the classes, in nats, of every voxel.

    Args:
        probabilities: Probabilities of classes, ``(B, C, H, W[, D])``, which sum to 1.

    Returns:
        ``(B, H, W[, D])``, from 0 to ``ln C``.
    """
    return -probabilities.xlogy(probabilities).sum(dim=1)


def foreground_entropy(logits: Tensor) -> float:
    """Returns the mean entropy over the predicted foreground, in nats; ``ln C``, the most, without one.

    Args:
        logits: Logits of classes, ``(B, C, H, W[, D])``, background first.

    Returns:
        The mean; higher means more abnormal.
    """
    double = logits.double()
    return foreground_mean(entropy(double.softmax(dim=1)), logits, math.log(logits.shape[1]))


def softmax_uncertainty(logits: Tensor, *, temperature: float = 1.0) -> float:
    """Returns one minus the mean largest softmax probability (MSP) over the predicted foreground.

    Hendrycks and Gimpel, *A Baseline for Detecting Misclassified and Out-of-Distribution Examples*, ICLR 2017.

    Args:
        logits: Logits of classes, ``(B, C, H, W[, D])``, background first.
        temperature: Number that logits are divided by first, above 0. Default 1; 1000 in ODIN.

    Returns:
        From 0 to ``1 - 1 / C``, which is that of no foreground; higher means more abnormal.
    """
    largest = (logits.double() / temperature).softmax(dim=1).amax(dim=1)
    return foreground_mean(1 - largest, logits, 1 - 1 / logits.shape[1])


def negative_max_logit(logits: Tensor) -> float:
    """Returns minus the mean largest logit over the predicted foreground; 0, as of equal logits, without one.

    Hendrycks et al., *Scaling Out-of-Distribution Detection for Real-World Settings*, ICML 2022.

    Args:
        logits: Logits of classes, ``(B, C, H, W[, D])``, background first.

    Returns:
        The mean; higher means more abnormal.
    """
    return foreground_mean(-logits.amax(dim=1).double(), logits, 0.0)


def energy(logits: Tensor, *, temperature: float = 1.0) -> float:
    """Returns the mean energy over the predicted foreground, ``-T * logsumexp(logits / T)``.

    Liu et al., *Energy-based Out-of-distribution Detection*, NeurIPS 2020. Without a foreground it is that of logits
    that are all 0.

    Args:
        logits: Logits of classes, ``(B, C, H, W[, D])``, background first.
        temperature: The T of the formula, above 0. Default 1, the paper's.

    Returns:
        The mean; higher means more abnormal.
    """
    values = -temperature * (logits.double() / temperature).logsumexp(dim=1)
    return foreground_mean(values, logits, -temperature * math.log(logits.shape[1]))
