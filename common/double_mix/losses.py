"""Computes losses of softmax segmentation with a weight for each class."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..metrics.masks import class_masks


def weighted_cross_entropy(input: Tensor, target: Tensor, weight: Tensor, region: Tensor | None = None) -> Tensor:
    """Returns ``sum(w_y * ce) / max(sum(w_y), 1e-8)`` over all voxels, or those of a region.

    Torch's own mean divides by ``sum(w_y)``, which is not a number for a target whose classes all have weight 0.

    Args:
        input: Logits, ``(B, C, H, W[, D])``.
        target: Class indices, ``(B, 1, H, W[, D])``, from 0 to ``C - 1``.
        weight: Weight of each class, ``(C,)``, at least 0.
        region: Voxels that count, bool, ``(B, 1, H, W[, D])``. With ``None``, the default, all of them.
    """
    classes = target[:, 0].long()
    if region is not None:
        counted = weight[classes] * region[:, 0]
        return (counted * cross_entropy(input.float(), classes, reduction="none")).sum() / counted.sum().clamp_min(1e-8)
    total = cross_entropy(input.float(), classes, weight=weight, reduction="sum")
    return total / weight[classes].sum().clamp_min(1e-8)


class WeightedDiceLoss(nn.Module):
    """Mean over the foreground classes of ``w_c * (1 - dice_c)``, Dice over the whole batch, smoothing 1.

    Args:
        present_classes: Whether only classes that the labels of the batch hold count. False by default: then a class
            that a batch does not show, such as a small organ in most slices, is only ever unlearned by it.
    """

    def __init__(self, *, present_classes: bool = False) -> None:
        super().__init__()
        self.present_classes = present_classes
        self.dice = DiceLoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            reduction="none",
            smooth_nr=1.0,
            smooth_dr=1.0,
        )

    def forward(self, input: Tensor, target: Tensor, weight: Tensor, region: Tensor | None = None) -> Tensor:
        """Returns the loss of logits ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``.

        Args:
            input: Logits, ``(B, C, H, W[, D])``.
            target: Class indices, ``(B, 1, H, W[, D])``, from 0 to ``C - 1``.
            weight: Weight of each class, ``(C,)``, at least 0; that of background does not count.
            region: Voxels that count, bool, ``(B, 1, H, W[, D])``. With ``None``, the default, all of them.
        """
        if region is None:
            losses = weight[1:] * self.dice(input.float(), target).flatten()
        else:
            losses = weight[1:] * regional_dice_loss(input, target, region)
        if not self.present_classes:
            return losses.mean()
        # No count of classes: torch's waits for the device.
        shown = target if region is None else target * region
        present = torch.zeros_like(weight).scatter_(0, shown.flatten().long(), 1.0)[1:]
        return (losses * present).sum() / present.sum().clamp_min(1)


def regional_dice_loss(input: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Returns ``1 - dice_c`` of each foreground class over the voxels of a region, ``(C - 1,)``, smoothing 1.

    Args:
        input: Logits, ``(B, C, H, W[, D])``.
        target: Class indices, ``(B, 1, H, W[, D])``, from 0 to ``C - 1``.
        region: Voxels that count, bool, ``(B, 1, H, W[, D])``.
    """
    probability = input.float().softmax(dim=1)[:, 1:] * region
    truth = class_masks(target, input.shape[1])[:, 1:] & region
    axes = [0, *range(2, input.ndim)]
    overlap, total = (probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)
    return 1 - (2 * overlap + 1) / (total + 1)


class WeightedSegmentationLoss(nn.Module):
    """Weighted Dice loss plus a share of the weighted cross entropy.

    Args:
        cross_entropy_share: Factor of the cross entropy. 0.5, the source's, by default.
        present_classes: Whether the Dice counts only classes that the labels of the batch hold, see
            :class:`WeightedDiceLoss`. False, as in the source, by default.
    """

    def __init__(self, cross_entropy_share: float = 0.5, *, present_classes: bool = False) -> None:
        super().__init__()
        self.cross_entropy_share = cross_entropy_share
        self.dice = WeightedDiceLoss(present_classes=present_classes)

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None, region: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of logits ``(B, C, H, W[, D])`` and class indices ``(B, 1, H, W[, D])``.

        Args:
            input: Logits, ``(B, C, H, W[, D])``.
            target: Class indices, ``(B, 1, H, W[, D])``, from 0 to ``C - 1``.
            weight: Weight of each class, ``(C,)``, at least 0. With ``None``, the default, all ones.
            region: Voxels that count, bool, ``(B, 1, H, W[, D])``. With ``None``, the default, all of them.
        """
        chosen = torch.ones(input.shape[1], device=input.device) if weight is None else weight
        share = self.cross_entropy_share * weighted_cross_entropy(input, target, chosen, region)
        return self.dice(input, target, chosen, region) + share
