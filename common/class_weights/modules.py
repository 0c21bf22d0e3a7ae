"""Remembers class weights from step to step: the modules of a co-training step.

A module is given :class:`ClassStatistics`, sums over one batch that are the same on every rank. It keeps what it
remembers in buffers, which travel with checkpoints and devices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .functional import (
    EPSILON,
    ClassStatistics,
    class_dice,
    class_information,
    class_shares,
    distribution_weight,
    learning_speed,
    learning_terms,
    loss_weight,
)


class ClassWeight(nn.Module):
    """Weights that are the same for all classes, and the base of the others.

    Args:
        num_classes: Number of classes C, background included.

    Attributes:
        weight: ``(C,)`` float32, the weights of the last update.
    """

    weight: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("weight", torch.ones(num_classes))

    def start(self, counts: Tensor) -> None:
        """Tells the voxels of each class in the labeled set, ``(C,)``, before the first update."""

    @torch.no_grad()
    def update(self, statistics: ClassStatistics) -> Tensor:
        """Returns the weights ``(C,)`` after one more batch."""
        self.weight.copy_(self._next(statistics))
        return self.weight

    def loss_weight(self) -> Tensor:
        """Returns the weights of the last update as losses take them; ones here, where no class is weighted."""
        return self.weight

    def _next(self, _statistics: ClassStatistics) -> Tensor:
        return self.weight

    def _remember(self, **values: Tensor) -> None:
        """Registers buffers in float64, whatever the default."""
        for name, value in values.items():
            self.register_buffer(name, value.double())


class DistributionWeight(ClassWeight):
    """DisW of the shares of voxels in the labeled set, which then follow the network's pseudo labels.

    Args:
        num_classes: Number of classes C, background included.
        counts: Numbers of voxels of each class in the labeled set, ``(C,)``; without them, the default, all classes
            have equal shares.
        momentum: Momentum of the exponential moving average of the shares, in [0, 1]; 0.99 by default.
    """

    shares: Tensor

    def __init__(self, num_classes: int, counts: Tensor | None = None, *, momentum: float = 0.99) -> None:
        super().__init__(num_classes)
        self.momentum = momentum
        self._remember(shares=torch.full((num_classes,), 1 / num_classes))
        if counts is not None:
            self.start(torch.as_tensor(counts))

    def start(self, counts: Tensor) -> None:
        """Sets the shares to those of the labeled set."""
        self.shares.copy_(class_shares(counts.double()))
        self.weight.copy_(distribution_weight(self.shares))

    def loss_weight(self) -> Tensor:
        """Returns the weights of the last update as losses take them."""
        return loss_weight(self.weight)

    def _next(self, statistics: ClassStatistics) -> Tensor:
        moved = torch.lerp(self.shares, class_shares(statistics.pseudo), 1 - self.momentum)
        self.shares.copy_(torch.where(statistics.pseudo.sum() > 0, moved, self.shares))
        return distribution_weight(self.shares)


class DifficultyWeight(ClassWeight):
    """DifW: the average of ``1 - Dice`` times the learning speed.

    A class without ground truth in the batch keeps its Dice and its learning terms: absence is not unlearning.

    Args:
        num_classes: Number of classes C, background included.
        alpha: Exponent of the learning speed; 0.2 by default.
        momentum: Momentum of the three exponential moving averages, in [0, 1]; 0.98 by default.
    """

    dice: Tensor
    learned: Tensor
    unlearned: Tensor
    missed: Tensor

    def __init__(self, num_classes: int, *, alpha: float = 0.2, momentum: float = 0.98) -> None:
        super().__init__(num_classes)
        self.alpha, self.momentum = alpha, momentum
        none, everything = torch.zeros(num_classes), torch.ones(num_classes)
        # Before the first step nothing is segmented: Dice is 0, and everything is missed.
        self._remember(dice=everything * EPSILON, learned=none, unlearned=none, missed=everything)

    def loss_weight(self) -> Tensor:
        """Returns the weights of the last update as losses take them."""
        return loss_weight(self.weight)

    def _next(self, statistics: ClassStatistics) -> Tensor:
        present = statistics.truth > 0
        dice = torch.where(present, class_dice(statistics), self.dice)
        for average, term in zip((self.learned, self.unlearned), learning_terms(dice, self.dice), strict=True):
            average.copy_(torch.where(present, torch.lerp(average, term, 1 - self.momentum), average))
        self.dice.copy_(dice)
        self.missed.lerp_(1 - dice, 1 - self.momentum)
        return self.missed * learning_speed(self.learned, self.unlearned, alpha=self.alpha)


class ClassConfidence(nn.Module):
    """The average information of each class; a class without ground truth in the batch keeps its confidence.

    Args:
        num_classes: Number of classes C, background included.
        momentum: Momentum of the exponential moving average, in [0, 1]; 0.98 by default.
    """

    confidence: Tensor
    information: Tensor

    def __init__(self, num_classes: int, *, momentum: float = 0.98) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("confidence", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("information", torch.ones(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def update(self, statistics: ClassStatistics) -> Tensor:
        """Returns the information ``(C,)``, in (0, 1], after one more batch."""
        confidence = statistics.confidence / statistics.truth.clamp_min(1)
        self.confidence.copy_(torch.where(statistics.truth > 0, confidence, self.confidence))
        return self.information.lerp_(class_information(self.confidence), 1 - self.momentum)


class ConfidenceDifficultyWeight(DifficultyWeight):
    """CDifW: the information to the power of ``beta`` times DifW.

    Args:
        num_classes: Number of classes C, background included.
        alpha: Exponent of the learning speed; 0.2 by default.
        beta: Exponent of the information; 0.2 by default.
        momentum: Momentum of all exponential moving averages, in [0, 1]; 0.98 by default.
    """

    def __init__(self, num_classes: int, *, alpha: float = 0.2, beta: float = 0.2, momentum: float = 0.98) -> None:
        super().__init__(num_classes, alpha=alpha, momentum=momentum)
        self.beta = beta
        self.certainty = ClassConfidence(num_classes, momentum=momentum)

    def _next(self, statistics: ClassStatistics) -> Tensor:
        return self.certainty.update(statistics) ** self.beta * super()._next(statistics)


class ConfidenceDistributionWeight(DistributionWeight):
    """CDisW: the information to the power of ``beta`` times DisW.

    Args:
        num_classes: Number of classes C, background included.
        counts: Numbers of voxels of each class in the labeled set, ``(C,)``; without them, the default, all classes
            have equal shares.
        beta: Exponent of the information; 0.2 by default.
        momentum: Momentum of the exponential moving average of the shares, in [0, 1]; 0.99 by default.
    """

    def __init__(
        self, num_classes: int, counts: Tensor | None = None, *, beta: float = 0.2, momentum: float = 0.99
    ) -> None:
        super().__init__(num_classes, counts, momentum=momentum)
        self.beta = beta
        self.certainty = ClassConfidence(num_classes)

    def _next(self, statistics: ClassStatistics) -> Tensor:
        return self.certainty.update(statistics) ** self.beta * super()._next(statistics)


CLASS_WEIGHTS: dict[str, type[ClassWeight]] = {
    "none": ClassWeight,
    "DisW": DistributionWeight,
    "DifW": DifficultyWeight,
    "CDifW": ConfidenceDifficultyWeight,
    "CDisW": ConfidenceDistributionWeight,
}
"""Name of a weight -> its class; what ``weight_a`` and ``weight_b`` accept."""


def make_class_weight(name: str, num_classes: int) -> ClassWeight:
    """Returns the weight of that name.

    Raises:
        ConfigError: When there is none.
    """
    if name not in CLASS_WEIGHTS:
        raise ConfigError(f"class weight {name!r} does not exist; accepted are {', '.join(CLASS_WEIGHTS)}")
    return CLASS_WEIGHTS[name](num_classes)
