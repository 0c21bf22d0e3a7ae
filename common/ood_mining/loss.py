"""Computes the loss on in- and out-of-distribution patches together (Gao and Xu, section 3.3)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..errors import ConfigError

Reduction = Literal["pooled", "per_class"]
Target = Tensor | tuple[Tensor, Tensor]


def prepare_patches(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_kwargs: Any
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Returns images, and labels with the flag of each patch, as a trainer's ``prepare_batch``.

    Args:
        batch: Batch of a :class:`~.patches.PatchDataset`, with ``image``, ``label`` and ``ood``.
        device: Device that the tensors go to. With ``None``, the default, they stay where they are.
        non_blocking: Whether the copy may overlap with what follows. Default false.
    """
    image, label, ood = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label", "ood"))
    return image, (label, ood)


class CombinedDiceLoss(nn.Module):
    """Dice loss of a shuffled batch of in-distribution patches and out-of-distribution ones, whose masks are empty.

    Gao and Xu, *Out-of-distribution data supervision towards biomedical semantic segmentation*, equation 4. That is
    ``reduction="per_class"``: ``1/|C| * sum_c [Dice(F_c(I_id), GT_c) + weight * Dice(F_c(I_ood), 0)]`` over the
    foreground classes. The published runs pool one Dice over batch, pixels and all softmax channels, background
    included, with a smoothing of 1: the default, ``reduction="pooled"``. There the weight counts every pixel of an
    out-of-distribution patch so many times.

    As printed, the second term teaches nothing. Against an empty mask, Dice with a small smoothing is almost 1 for any
    softmax output, and its gradient is near 1e-11 for each pixel. Here its smoothing grows with the number of pixels.
    An all-zero prediction still costs 0, one of nothing but foreground 1/2 with the default.

    Args:
        ood_weight: Weight of out-of-distribution patches, the paper's lambda, at least 0. Default 1, as in the paper.
        reduction: ``pooled`` or ``per_class``. Default ``pooled``.
        smooth: Smoothing added to numerator and denominator, above 0. Default 1, as in the published runs.
        empty_smooth: Smoothing of the Dice against an empty mask, for each of its pixels, above 0. Default 1;
            ``per_class`` only.

    Raises:
        ConfigError: When an argument is not accepted.

    Example:
        >>> loss = CombinedDiceLoss()
        >>> logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]]).reshape(1, 2, 1, 2) * 10
        >>> round(float(loss(logits, torch.tensor([[[[0, 1]]]]))), 4)
        0.0
    """

    def __init__(
        self,
        *,
        ood_weight: float = 1.0,
        reduction: Reduction = "pooled",
        smooth: float = 1.0,
        empty_smooth: float = 1.0,
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ConfigError(f"reduction is {reduction!r}; accepted are {' and '.join(get_args(Reduction))}")
        if ood_weight < 0 or smooth <= 0 or empty_smooth <= 0:
            raise ConfigError(
                f"ood_weight {ood_weight}, smooth {smooth}, empty_smooth {empty_smooth}: accepted are a weight of at "
                "least 0 and smoothings above 0"
            )
        self.ood_weight, self.reduction, self.smooth, self.empty_smooth = ood_weight, reduction, smooth, empty_smooth

    def forward(self, input: Tensor, target: Target) -> Tensor:
        """Returns the loss, a scalar in float32.

        Args:
            input: Logits, ``(B, C, H, W[, D])``, with at least two channels; channel 0 is the background.
            target: Class indices, ``(B, 1, H, W[, D])``, or zeros and ones, ``(B, C, H, W[, D])``. Or a pair of these
                and a flag ``(B,)`` for each patch that is out-of-distribution, whose label must be empty.

        Raises:
            ConfigError: When there is a single channel or the shapes do not fit.
        """
        label, ood = target if isinstance(target, tuple) else (target, None)
        channels = input.shape[1]
        if channels < 2 or label.shape[1] not in (1, channels) or label.shape[2:] != input.shape[2:]:
            raise ConfigError(
                f"logits of shape {tuple(input.shape)}, labels of shape {tuple(label.shape)}: accepted are at least "
                "two channels of logits, and class indices or one channel for each class"
            )
        truth = label if label.shape[1] == channels else one_hot(label[:, 0].long(), channels).movedim(-1, 1)
        probability, truth = input.float().softmax(dim=1), truth.float()
        flags = torch.zeros(len(input), device=input.device) if ood is None else ood.to(input.device).float()
        flags = flags.reshape(-1, *[1] * (input.ndim - 1))
        if self.reduction == "pooled":
            return self._pooled(probability, truth, 1 + (self.ood_weight - 1) * flags)
        return self._per_class(probability[:, 1:], truth[:, 1:], flags)

    def terms(self, input: Tensor, target: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Returns the loss as each kind of patch learns from it: the other kind's logits are taken as constants.

        Pooled, the loss is no sum of two. But its gradient is: that of ``in_distribution`` plus that of
        ``out_of_distribution``, for either reduction.

        Args:
            input: Logits, ``(B, C, H, W[, D])``, as :meth:`forward` takes them.
            target: Labels and a flag ``(B,)`` for each patch that is out-of-distribution.
        """
        flags = target[1].to(input.device).bool().reshape(-1, *[1] * (input.ndim - 1))
        fixed = input.detach()
        return {
            "in_distribution": self(torch.where(flags, fixed, input), target),
            "out_of_distribution": self(torch.where(flags, input, fixed), target),
        }

    def _pooled(self, probability: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """One Dice over everything, every pixel weighted."""
        overlap = (weight * probability * truth).sum()
        total = (weight * (probability + truth)).sum()
        return 1 - (2 * overlap + self.smooth) / (total + self.smooth)

    def _per_class(self, probability: Tensor, truth: Tensor, flags: Tensor) -> Tensor:
        """The formula as printed; the mean over the foreground classes of both terms."""
        axes = (0, *range(2, probability.ndim))
        original = 1 - flags
        overlap = (original * probability * truth).sum(dim=axes)
        total = (original * (probability + truth)).sum(dim=axes)
        found = 1 - (2 * overlap + self.smooth) / (total + self.smooth)
        confused = (flags * probability).sum(dim=axes)
        pixels = flags.sum() * probability[0, 0].numel()
        # Without an out-of-distribution patch in the batch both are zero.
        empty = confused / (confused + self.empty_smooth * pixels.clamp_min(1))
        return (found + self.ood_weight * empty).mean()
