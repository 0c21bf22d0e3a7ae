"""Pastes boxes between labeled and unlabeled images in both directions: bidirectional copy-paste (BCP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...class_weights import most_probable
from ...errors import ConfigError
from ..boxes import random_boxes_of_share
from ..components import largest_components
from ..students import StudentStep, Terms, check_share


class BCPStep(StudentStep):
    """One iteration of bidirectional copy-paste.

    Bai et al., *Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation*, CVPR 2023. First, boxes are
    pasted between labeled images (the warm-up). Then a box of each labeled image goes into an unlabeled one, and the
    same box of the unlabeled one into the labeled one. Of the average's pseudo labels, each class keeps its largest
    component. Voxels with a label of their own count fully, those with a pseudo label ``pseudo_weight`` as much.

    Two things differ. The paper divides a batch, half for each direction; here every pair goes both ways, as a batch
    may hold one pair. The paper takes up the best network of the warm-up; here the training just goes on.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images; the paper's is Dice and cross entropy alike, ``cross_entropy_share`` 1.
        box_share: Share of each side of the image that a box has, above 0, at most 1. 2/3, the paper's, by default.
        pretrain_share: Share of the training that is the warm-up, in [0, 1]. 0.25 by default, the paper's 10 thousand
            of 40 thousand iterations on cardiac slices; 0.12 on atria.
        pseudo_weight: Weight of voxels with pseudo labels, at least 0. 0.5, the paper's alpha, by default.
        largest_component: Whether pseudo labels keep the largest component of each class alone. True, as in the paper,
            by default.
        **settings: Further arguments of :class:`StudentStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        box_share: float = 2 / 3,
        pretrain_share: float = 0.25,
        pseudo_weight: float = 0.5,
        largest_component: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("box_share", box_share, least=1e-3)
        check_share("pretrain_share", pretrain_share)
        if not pseudo_weight >= 0:
            raise ConfigError(f"pseudo_weight is {pseudo_weight}; accepted are factors from 0")
        self.box_share, self.pretrain_share = box_share, pretrain_share
        self.pseudo_weight, self.largest_component = pseudo_weight, largest_component

    def label(self, logits: Tensor, _number: int = 0) -> Tensor:
        """Returns the pseudo labels of a teacher's logits, see :class:`StudentStep`."""
        labels = most_probable(logits)
        return largest_components(labels) if self.largest_component else labels

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        box = random_boxes_of_share(label, self.box_share, generator=self.generator)
        if share <= self.pretrain_share:
            return self._warm_up(network, image, label, box)
        pseudo = [self.label(logits) for logits in self.teach(network, unlabeled)]
        mixed, given = paste_both_ways(image, unlabeled, box), torch.cat([box, ~box])
        supervised = unsupervised = label.new_zeros((), dtype=torch.float32)
        for logits, guessed in zip(network(mixed), pseudo, strict=True):
            target = paste_both_ways(label, guessed, box)
            supervised = supervised + self.loss(logits, target, region=given)
            unsupervised = unsupervised + self.loss(logits, target, region=~given)
        return {"supervised": supervised, "unsupervised": self.pseudo_weight * unsupervised}

    def _warm_up(self, network: nn.Module, image: Tensor, label: Tensor, box: Tensor) -> Terms:
        """Each labeled image with a box of the next one, the last with one of the first."""
        assert self.ema is not None
        self.ema.update_parameters(network)
        mixed = torch.where(box, image.roll(1, dims=0), image)
        target = torch.where(box, label.roll(1, dims=0), label)
        supervised = torch.stack([self.loss(logits, target) for logits in network(mixed)]).sum()
        # The terms have the same names in all iterations.
        return {"supervised": supervised, "unsupervised": torch.zeros_like(supervised)}


def paste_both_ways(inner: Tensor, outer: Tensor, box: Tensor) -> Tensor:
    """Returns what is inside the box of the first in the surroundings of the second, then the reverse.

    Args:
        inner: Images or labels, ``(B, n, H, W[, D])``.
        outer: Images or labels of the same shape.
        box: Voxels of the boxes, bool, ``(B, 1, H, W[, D])``.

    Returns:
        ``(2 * B, n, H, W[, D])``, those with a box of ``inner`` first.
    """
    return torch.cat([torch.where(box, inner, outer), torch.where(box, outer, inner)])
