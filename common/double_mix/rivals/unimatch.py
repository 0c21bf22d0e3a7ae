"""Learns two strong views and one with dropped features from the weak view: UniMatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..boxes import random_boxes_of_share
from ..features import FeatureTap
from ..students import Terms
from .views import ViewsStep, strong_view


class UniMatchStep(ViewsStep):
    """One iteration of UniMatch.

    Yang et al., *Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation*, CVPR 2023. Confident
    predictions of the weak view teach two strong views, each with a box of the next image (CutMix), and the weak view
    with half of its feature channels dropped. Their weights are the paper's, 1/4, 1/4 and 1/2.

    The paper drops features of the encoder; here it is the map that ``feature_layers`` names, which every network has.
    A box has ``box_share`` of each side, where the paper draws its size.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        tap: Where the feature maps are.
        box_share: Share of each side of the image that a box has, in (0, 1]. 0.5 by default.
        dropout: Probability of a channel to be dropped, from 0 and below 1. 0.5, the paper's, by default.
        **settings: Further arguments of :class:`ViewsStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        tap: FeatureTap,
        box_share: float = 0.5,
        dropout: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        if not 0 < box_share <= 1:
            raise ConfigError(f"box_share is {box_share}; accepted is a share above 0, up to 1")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is {dropout}; accepted are probabilities from 0 and below 1")
        self.tap, self.box_share, self.dropout = tap, box_share, dropout

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        boxes = [random_boxes_of_share(unlabeled[:, :1], self.box_share, generator=self.generator) for _ in range(2)]
        strong = [cut_mix(strong_view(unlabeled, self.strength, self.generator), box) for box in boxes]
        outputs = network(torch.cat([image, unlabeled, *strong]))
        with self.tap.drop(self.dropout, generator=self.generator):
            dropped = network(unlabeled)
        supervised, unsupervised = [], []
        for number, logits in enumerate(outputs):
            own, weak, *seen = logits.split([len(image), *[len(unlabeled)] * 3])
            supervised.append(self.loss(own, label))
            guess = self.guess(weak.detach().float(), number, share)
            views = [
                self.compare(view, *(cut_mix(part, box) for part in guess))
                for view, box in zip(seen, boxes, strict=True)
            ]
            unsupervised.append(torch.stack(views).mean() + self.compare(dropped[number], *guess))
        return {
            "supervised": torch.stack(supervised).sum(),
            "unsupervised": self.pseudo_weight * torch.stack(unsupervised).sum() / 2,
        }


def cut_mix(items: Tensor, box: Tensor) -> Tensor:
    """Returns each item with a box of the next one, the last with one of the first.

    Args:
        items: Images, labels or masks, ``(B, n, H, W[, D])``.
        box: Voxels of the boxes, bool, ``(B, 1, H, W[, D])``.
    """
    return torch.where(box, items.roll(-1, dims=0), items)
