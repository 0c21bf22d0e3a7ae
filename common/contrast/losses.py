"""Finds pairs of images that show the same classes, and brings their projections together.

Zhang et al., *Towards better laparoscopic video segmentation: A class-wise contrastive learning approach with
multi-scale feature extraction*, Healthcare Technology Letters 11, 2024. Supervised contrastive loss: Khosla et al.,
NeurIPS 2020. SimCLR: Chen et al., ICML 2020. BYOL: Grill et al., NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import ContrastiveLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity


def positive_pairs(presence: Tensor, phase: Tensor | None = None) -> Tensor:
    """Returns which images of a batch are a positive pair: other images with the same set of classes and phase.

    Where one of two images has no phase, the classes alone decide. So the relation is no division into groups, and
    losses take it as a matrix.

    Args:
        presence: Table of classes, ``(B, K)``, above 0 where an image shows a foreground class.
        phase: Numbers of the surgical phases, ``(B,)``, -1 where none is given. With ``None``, the default, the classes
            alone decide.

    Returns:
        ``(B, B)`` bool, symmetric, with a diagonal of ``False``.
    """
    shown = presence > 0
    same = (shown[:, None] == shown[None]).all(dim=-1)
    own = torch.eye(len(shown), dtype=torch.bool, device=shown.device)
    return same & ~(own | _other_phase(phase, own))


def overlapping_pairs(presence: Tensor, phase: Tensor | None = None) -> Tensor:
    """Returns how far images of a batch are positive to each other: the Jaccard index of their sets of classes.

    Ours: where there are many sets, few images of a batch show the same one. Two images without any class have 1.

    Args:
        presence: Table of classes, ``(B, K)``, above 0 where an image shows a foreground class.
        phase: Numbers of the surgical phases, ``(B,)``, -1 where none is given; images of different phases have 0. With
            ``None``, the default, the classes alone decide.

    Returns:
        ``(B, B)`` float32 in [0, 1], symmetric, with a diagonal of 0.
    """
    shown = (presence > 0).float()
    both, each = shown @ shown.T, shown.sum(dim=1)
    either = each[:, None] + each[None] - both
    jaccard = torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))
    own = torch.eye(len(shown), dtype=torch.bool, device=shown.device)
    return jaccard.masked_fill(own | _other_phase(phase, own), 0.0)


def _other_phase(phase: Tensor | None, like: Tensor) -> Tensor:
    """Whether two images are said to be of different phases, ``(B, B)`` bool."""
    if phase is None:
        return torch.zeros_like(like)
    known = phase >= 0
    return known[:, None] & known[None] & (phase[:, None] != phase[None])


PAIRS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {"equal": positive_pairs, "overlap": overlapping_pairs}
"""What ``positives`` accepts: name of a relation -> how far images of a batch are positive to each other."""


def supervised_contrastive_loss(
    projections: Tensor, positive: Tensor, *, temperature: float = 0.1, memory: Tensor | None = None
) -> Tensor:
    """Returns the supervised contrastive loss, the mean over the anchors that have a positive.

    Khosla et al. 2020, equation 2 (L_out), of image i with its positives P(i), each with a weight w of 1:
    ``-sum_{p in P(i)} w_ip log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)) / sum_{p in P(i)} w_ip``.
    An anchor without a positive contributes exactly nothing, and a batch of such anchors costs 0.

    pytorch-metric-learning's ``SupConLoss`` gives the same numbers, but reads values of the device in every step. It
    takes labels, which cannot say that an image without a phase is positive to two images of different phases.

    Args:
        projections: Projections of the images, ``(B, D)``, of length 1.
        positive: Positive pairs, ``(B, B)``, bool or weights of at least 0, see :func:`positive_pairs` and
            :func:`overlapping_pairs`; no image is positive to itself. With a memory ``(B, B + Q)``.
        temperature: Temperature of the softmax over the other images, above 0. 0.1 by default, since the source gives
            none.
        memory: Projections of earlier images, ``(Q, D)``, which are compared with but are no anchors. ``None``, the
            default, for none.
    """
    others = projections if memory is None else torch.cat([projections, memory.to(projections)])
    own = torch.eye(len(projections), len(others), dtype=torch.bool, device=projections.device)
    similarity = (projections.float() @ others.float().T / temperature).masked_fill(own, -torch.inf)
    weight = positive.float()
    # The place of the image itself holds minus infinity, which no weight of 0 would take away.
    chance = similarity.log_softmax(dim=1).masked_fill(weight == 0, 0.0)
    total = weight.sum(dim=1)
    each = -(weight * chance).sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))
    return each.sum() / (total > 0).sum().clamp_min(1)


def simclr_loss(projections: Tensor, *, temperature: Tensor) -> Tensor:
    """Returns SimCLR's loss, MONAI's, of images and of their other views.

    Args:
        projections: Projections, ``(2 * B, D)``: those of the images first, then those of the other view of each.
        temperature: Temperature, above 0, on the device of the projections. A number would be copied there in every
            step, which waits.
    """
    first, second = projections.float().chunk(2)
    # A tensor is what MONAI makes of the number anyway.
    return ContrastiveLoss(temperature=temperature)(first, second)  # type: ignore[arg-type]


def byol_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns BYOL's loss: ``2 - 2 cos`` between what is predicted of an image and the target of its other view.

    Args:
        predicted: Predictions, ``(2 * B, D)``: those of the images first, then those of the other view of each.
        target: Projections of the averaged network, ``(2 * B, D)``, in the same order; no gradient reaches them.
    """
    others = target.detach().float().roll(len(target) // 2, dims=0)
    return (2 - 2 * cosine_similarity(predicted.float(), others)).mean()


def presence_loss(logits: Tensor, presence: Tensor) -> Tensor:
    """Returns the binary cross entropy of every class, the mean over images and classes; 0 without an image.

    Args:
        logits: Logits of the foreground classes, ``(B, K)``.
        presence: Table of classes, ``(B, K)``: 1 where an image shows a class and 0 elsewhere.
    """
    total = binary_cross_entropy_with_logits(logits.float(), presence.float(), reduction="sum")
    return total / max(presence.numel(), 1)
