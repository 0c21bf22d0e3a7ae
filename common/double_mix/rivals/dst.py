"""Learns pseudo labels with a head of their own, and avoids the worst head: debiased self-training (DST)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...errors import ConfigError
from ...runtime.distributed import world_size
from ..features import FeatureTap
from ..students import Terms
from .views import ViewsStep, strong_view


class VoxelHead(nn.Module):
    """Maps the features of each voxel to logits, in two or three dimensions.

    Args:
        channels: Number of channels of the features, n.
        num_classes: Number of classes C, background included.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits ``(B, C, H, W[, D])`` of features ``(B, n, H, W[, D])``."""
        logits: Tensor = self.linear(features.movedim(1, -1))
        return logits.movedim(-1, 1)


class _Reversal(torch.autograd.Function):
    """Passes values on, and gradients back with the other sign."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(values: Tensor) -> Tensor:
    """Returns the values; gradients that come back through them change their sign (Ganin et al., JMLR 2016)."""
    reversed_: Tensor = _Reversal.apply(values)
    return reversed_


def wrong_cross_entropy(input: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Returns the mean of ``-log(1 - p_y)`` over a region: small where the class is thought to be any other.

    Args:
        input: Logits, ``(B, C, H, W[, D])``.
        target: Class indices, ``(B, 1, H, W[, D])``.
        region: Voxels that count, bool, of the shape of ``target``.
    """
    probability = input.float().softmax(dim=1).gather(1, target)
    losses = -(1 - probability).clamp_min(1e-6).log()
    return (losses * region).sum() / region.sum().clamp_min(1)


class DSTStep(ViewsStep):
    """One iteration of debiased self-training.

    Chen et al., *Debiased Self-Training for Semi-Supervised Learning*, NeurIPS 2022, on FixMatch. The head of the
    network makes pseudo labels and learns from labels alone. A pseudo head learns strong views from these pseudo
    labels. A worst head is right on labeled images and as wrong as it can on unlabeled ones; the features learn the
    opposite of it, by reversed gradients. Both heads are linear in the features of a voxel, and are not part of the
    network that is saved.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``; not distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        tap: Where the feature maps are, those that the network's own head is given.
        channels: Number of channels of the feature maps.
        worst_weight: Weight of the worst case, at least 0. 0.3 by default.
        **settings: Further arguments of :class:`ViewsStep`.

    Raises:
        ConfigError: When a setting is not accepted, or several processes train.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "unsupervised", "worst")

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        num_classes: int,
        tap: FeatureTap,
        channels: int,
        worst_weight: float = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        if not worst_weight >= 0:
            raise ConfigError(f"worst_weight is {worst_weight}; accepted are factors from 0")
        if world_size() > 1:
            raise ConfigError("rival is 'dst', whose heads several processes would not share; train in one process")
        self.tap, self.worst_weight = tap, worst_weight
        heads = [VoxelHead(channels, num_classes) for _ in range(2 * self.students)]
        self.heads = nn.ModuleList(heads).to(self.device)
        self.optimizer = torch.optim.AdamW(self.heads.parameters())

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return super().members | {"heads": self.heads, "heads_optimizer": self.optimizer}

    def __call__(self, engine: Any, batchdata: Any) -> Terms:
        """Trains network and heads on one batch; the heads have the learning rate of the network."""
        self.optimizer.zero_grad(set_to_none=True)
        output = super().__call__(engine, batchdata)
        for group in self.optimizer.param_groups:
            group["lr"] = engine.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        return output

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        strong = strong_view(unlabeled, self.strength, self.generator)
        sizes = [len(image), len(unlabeled), len(unlabeled)]
        with self.tap.watch() as maps:
            outputs = network(torch.cat([image, unlabeled, strong]))
        found: list[list[Tensor]] = [[], [], []]
        for number, (logits, features) in enumerate(zip(outputs, maps, strict=True)):
            own, weak, _ = logits.split(sizes)
            pseudo, region = self.guess(weak.detach().float(), number, share)
            labeled, _, seen = features.split(sizes)
            pseudo_head, worst_head = self.heads[2 * number], self.heads[2 * number + 1]
            found[0].append(self.loss(own, label))
            found[1].append(self.compare(pseudo_head(seen), pseudo, region))
            right = cross_entropy(worst_head(reverse_gradient(labeled)).float(), label[:, 0])
            found[2].append(right + wrong_cross_entropy(worst_head(reverse_gradient(seen)), pseudo, region))
        factors = (1.0, self.pseudo_weight, self.worst_weight)
        sums = [factor * torch.stack(values).sum() for factor, values in zip(factors, found, strict=True)]
        return dict(zip(self.terms, sums, strict=True))
