"""Learns a strong view of each unlabeled image from what is predicted of its weak one: FixMatch, DePL and CReST."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...augmentation import BatchAugmentation
from ...class_weights import most_probable
from ...errors import ConfigError
from ..draws import uniform
from ..students import StudentStep, Terms, check_share
from .distribution import SMALLEST, LabeledCounts, PredictedShares, align, debias, rebalancing_rates


def strong_view(images: Tensor, strength: float, generator: torch.Generator | None) -> Tensor:
    """Returns images with strongly changed intensities, every voxel in its place.

    Args:
        images: Weak views, ``(B, n, H, W[, D])``, augmented as labeled images are.
        strength: Largest change of gain, offset and exponent; noise has up to a fifth of it. From 0, below 1.
        generator: Generator of the draw, on the CPU, or ``None`` for torch's own.
    """
    kinds = {"gain": strength, "offset": strength, "gamma": strength, "noise": strength / 5}
    augmentation = BatchAugmentation(images.ndim - 2, **kinds)  # type: ignore[arg-type]
    return augmentation(images, generator=generator or torch.default_generator)[0]


class ViewsStep(StudentStep):
    """One iteration of FixMatch, the base of others: a confident prediction of the weak view teaches the strong one.

    Sohn et al., *FixMatch*, NeurIPS 2020. The weak view is the unlabeled image as it is augmented for all methods; the
    strong one has other intensities besides. Voxels whose largest probability reaches ``confidence`` count, in a cross
    entropy.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        confidence: Smallest probability of a pseudo label that counts, in [0, 1]. 0.95, the paper's, by default.
        pseudo_weight: Weight of the unlabeled images, at least 0. 1, the paper's, by default.
        strength: Strength of the strong view, see :func:`strong_view`. 0.5 by default.
        **settings: Further arguments of :class:`StudentStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    averages: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        confidence: float = 0.95,
        pseudo_weight: float = 1.0,
        strength: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("confidence", confidence)
        if not pseudo_weight >= 0:
            raise ConfigError(f"pseudo_weight is {pseudo_weight}; accepted are factors from 0")
        self.confidence, self.pseudo_weight, self.strength = confidence, pseudo_weight, strength

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        strong = strong_view(unlabeled, self.strength, self.generator)
        outputs = network(torch.cat([image, unlabeled, strong]))
        self.count(label)
        supervised, unsupervised = [], []
        for number, logits in enumerate(outputs):
            own, weak, seen = logits.tensor_split([len(image), len(image) + len(unlabeled)])
            supervised.append(self.loss(own, label))
            pseudo, region = self.guess(weak.detach().float(), number, share)
            unsupervised.append(self.compare(self.adjust(seen, number), pseudo, region))
        return {
            "supervised": torch.stack(supervised).sum(),
            "unsupervised": self.pseudo_weight * torch.stack(unsupervised).sum(),
        }

    def count(self, label: Tensor) -> None:
        """Learns what the labels of a batch say of the classes; nothing here.

        Args:
            label: Class indices of the labeled images, ``(B, 1, H, W[, D])``.
        """

    def guess(self, logits: Tensor, _number: int, _share: float) -> tuple[Tensor, Tensor]:
        """Returns pseudo labels and the voxels that count, bool, ``(B, 1, H, W[, D])`` both.

        Args:
            logits: Logits of the weak views, without a gradient, ``(B, C, H, W[, D])``.
            _number: Number of the student, from 0.
            _share: Share of the training that is done.
        """
        highest, pseudo = logits.softmax(dim=1).max(dim=1, keepdim=True)
        return pseudo, highest >= self.confidence

    def compare(self, logits: Tensor, pseudo: Tensor, region: Tensor) -> Tensor:
        """Returns the cross entropy of a view, a mean over all voxels, of which those outside the region cost nothing.

        Args:
            logits: Logits of the view, ``(B, C, H, W[, D])``.
            pseudo: Pseudo labels, ``(B, 1, H, W[, D])``.
            region: Voxels that count, bool, of the shape of ``pseudo``.
        """
        losses = cross_entropy(logits.float(), pseudo[:, 0], reduction="none")
        return (losses * region[:, 0]).mean()

    def adjust(self, logits: Tensor, _number: int) -> Tensor:
        """Returns the logits that the loss of strong views is given; here as they are.

        Args:
            logits: Logits of the strong views, ``(B, C, H, W[, D])``.
            _number: Number of the student, from 0.
        """
        return logits


class DePLStep(ViewsStep):
    """One iteration of debiased pseudo labeling: logits are adjusted by how often each class is predicted.

    Wang et al., *Debiased Learning from Naturally Imbalanced Pseudo-Labels*, CVPR 2022. With the moving average ``p``
    of predictions, pseudo labels come from ``logits - strength * log p``. The student's loss takes
    ``logits + strength * log p``, its adaptive margin, so that frequent classes must win by more. The paper's base is
    FixMatch; voxels take the place of images.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        debiasing: Factor of the logarithms, at least 0. 0.5, the paper's lambda, by default.
        momentum: Momentum of the average of predictions, in [0, 1]. 0.999, the paper's, by default, for trainings of
            100 thousand iterations; short ones need a lower one.
        **settings: Further arguments of :class:`ViewsStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        num_classes: int,
        debiasing: float = 0.5,
        momentum: float = 0.999,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("momentum", momentum)
        if not debiasing >= 0:
            raise ConfigError(f"debiasing is {debiasing}; accepted are factors from 0")
        self.debiasing = debiasing
        made = [PredictedShares(num_classes, momentum=momentum) for _ in range(self.students)]
        self.predicted = [shares.to(self.device) for shares in made]

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return super().members | {"predicted": nn.ModuleList(self.predicted)}

    def label(self, logits: Tensor, number: int = 0) -> Tensor:
        """Returns the debiased pseudo labels of a teacher's logits, see :class:`StudentStep`."""
        return most_probable(debias(logits.float(), self.shares(number), self.debiasing))

    def guess(self, logits: Tensor, number: int, _share: float) -> tuple[Tensor, Tensor]:
        """Returns debiased pseudo labels and the voxels that count, see :class:`ViewsStep`."""
        highest, pseudo = debias(logits, self.shares(number), self.debiasing).softmax(dim=1).max(dim=1, keepdim=True)
        self.predicted[number].update(logits.softmax(dim=1))
        return pseudo, highest >= self.confidence

    def adjust(self, logits: Tensor, number: int) -> Tensor:
        """Returns logits with the adaptive margin, see :class:`ViewsStep`."""
        return debias(logits.float(), self.shares(number), -self.debiasing)

    def shares(self, number: int) -> Tensor:
        """Returns a copy of the average prediction of a student, ``(C,)``.

        Args:
            number: Number of the student, from 0.
        """
        return self.predicted[number].shares.clone()


class CReSTStep(ViewsStep):
    """One iteration of class-rebalancing self-training: pseudo labels of frequent classes are learned from less often.

    Wei et al., *CReST: A Class-Rebalancing Self-Training Framework for Imbalanced Semi-Supervised Learning*, CVPR 2021,
    with the progressive distribution alignment of CReST+. A voxel is kept with the rate of its pseudo label's class,
    see
    :func:`~.distribution.rebalancing_rates`. Predictions are aligned to the labeled shares to the power of a
    temperature that falls from 1 to ``least_temperature``. In the paper, images are sampled between generations of
    training; here voxels are, in every iteration, and the temperature falls with the iterations.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        exponent: Exponent of the rates, at least 0. 1/3, the paper's alpha, by default.
        least_temperature: Temperature at the end of the training, in [0, 1]. 0.5, the paper's, by default.
        momentum: Momentum of the average of predictions, in [0, 1]. 0.999 by default.
        **settings: Further arguments of :class:`ViewsStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        num_classes: int,
        exponent: float = 1 / 3,
        least_temperature: float = 0.5,
        momentum: float = 0.999,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("momentum", momentum)
        check_share("least_temperature", least_temperature)
        if not exponent >= 0:
            raise ConfigError(f"exponent is {exponent}; accepted are numbers from 0")
        self.exponent, self.least_temperature = exponent, least_temperature
        made = [PredictedShares(num_classes, momentum=momentum) for _ in range(self.students)]
        self.predicted = [shares.to(self.device) for shares in made]
        self.labeled = LabeledCounts(num_classes).to(self.device)

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return super().members | {"predicted": nn.ModuleList(self.predicted), "labeled": self.labeled}

    def count(self, label: Tensor) -> None:
        """Counts the voxels of each class, see :class:`ViewsStep`."""
        self.labeled.update(label)

    def guess(self, logits: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
        """Returns aligned pseudo labels and the voxels that are kept, see :class:`ViewsStep`."""
        probability, counts = logits.softmax(dim=1), self.labeled.counts.clamp_min(1)
        predicted = self.predicted[number].update(probability)
        temperature = 1 - share * (1 - self.least_temperature)
        aligned = align(probability, predicted, counts / counts.sum(), temperature)
        highest, pseudo = aligned.max(dim=1, keepdim=True)
        rates = rebalancing_rates(counts, self.exponent)
        kept = uniform(tuple(pseudo.shape), pseudo.device, self.generator) < rates[pseudo]
        return pseudo, kept & (highest >= self.confidence)

    def compare(self, logits: Tensor, pseudo: Tensor, region: Tensor) -> Tensor:
        """Returns the cross entropy of a view over the voxels that are kept, see :class:`ViewsStep`."""
        return super().compare(logits, pseudo, region) / region.float().mean().clamp_min(SMALLEST)
