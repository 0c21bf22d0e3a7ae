"""Turns class indices into one mask for each class."""

from __future__ import annotations

import torch
from torch import Tensor


def class_masks(label: Tensor, num_classes: int) -> Tensor:
    """Returns one boolean channel for each class, ``(B, C, H, W[, D])``, of class indices ``(B, 1, H, W[, D])``."""
    classes = torch.arange(num_classes, device=label.device)
    return label == classes.reshape(1, -1, *[1] * (label.ndim - 2))
