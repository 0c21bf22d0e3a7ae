"""Weighs classes by their voxels and samples pseudo labels of uncertain classes more often: CLD."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...class_weights import class_statistics, most_probable
from ...errors import ConfigError
from ..draws import uniform
from ..losses import weighted_cross_entropy
from ..step import GaussianRamp
from ..students import StudentStep, Terms, check_share
from .distribution import LabeledCounts


class ClassConfidences(nn.Module):
    """Exponential moving average of the mean probability of each class over its true voxels; the first batch is copied.

    Args:
        num_classes: Number of classes C, background included.
        momentum: Momentum of the average, in [0, 1].
    """

    confidence: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("confidence", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, probability: Tensor, label: Tensor) -> Tensor:
        """Returns the confidences ``(C,)`` after one more batch; a class that it does not show keeps its own.

        Args:
            probability: Softmax probabilities of labeled images, ``(B, C, H, W[, D])``.
            label: Class indices, ``(B, 1, H, W[, D])``.
        """
        statistics = class_statistics(probability, label)
        present, found = statistics.truth > 0, statistics.confidence / statistics.truth.clamp_min(1)
        moved = torch.where(self.seen, torch.lerp(self.confidence, found, 1 - self.momentum), found)
        self.confidence.copy_(torch.where(present, moved, self.confidence))
        self.seen.logical_or_(present)
        return self.confidence


def sampling_rates(confidence: Tensor, exponent: float) -> Tensor:
    """Returns the rate at which each class is sampled, ``((1 - q_c) / max_k(1 - q_k)) ** exponent``, in [0, 1].

    Args:
        confidence: Confidence of each class, ``q``, ``(C,)``, in [0, 1].
        exponent: Exponent, at least 0; 0 samples all voxels.

    Example:
        >>> sampling_rates(torch.tensor([0.99, 0.84, 0.0]), 0.5)
        tensor([0.1000, 0.4000, 1.0000])
    """
    doubt = 1 - confidence
    return (doubt / doubt.max().clamp_min(1e-12)) ** exponent


class CLDStep(StudentStep):
    """One iteration of CLD: cross pseudo supervision with class weights, and more of the classes it is unsure of.

    Lin et al., *Calibrating Label Distribution for Class-Imbalanced Barely-Supervised Knee Segmentation*, MICCAI 2022.
    Labels of class c weigh ``(max_k n_k / n_c) ** weight_exponent``, scaled to a mean of 1. Each network learns from
    the other's pseudo labels of labeled and unlabeled images by weighted cross entropy. Of its own predictions of class
    c, the share :func:`sampling_rates` counts, drawn voxel by voxel.

    The paper also crops where labels of rare classes lie; all methods here see the same crops. Its weights of classes
    are taken from the labels that were seen, not from a count beforehand.

    Args:
        network: A ``CoTrainedPair`` of two networks, perhaps distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        weight_exponent: Exponent of the weights of classes, at least 0. 1/3 by default.
        sampling_exponent: Exponent of the rates of sampling, at least 0. 0.5, the paper's program's, by default.
        momentum: Momentum of the confidences, in [0, 1]. 0.999, the paper's, by default.
        theta_max: Weight of cross supervision at the end of the training, at least 0. 0.1, the paper's, by default.
        **settings: Further arguments of :class:`StudentStep`.

    Raises:
        ConfigError: When a setting is not accepted, or there is one network.
    """

    averages: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        num_classes: int,
        weight_exponent: float = 1 / 3,
        sampling_exponent: float = 0.5,
        momentum: float = 0.999,
        theta_max: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("momentum", momentum)
        for name, value in {"weight_exponent": weight_exponent, "sampling_exponent": sampling_exponent}.items():
            if not value >= 0:
                raise ConfigError(f"{name} is {value}; accepted are numbers from 0")
        if self.students < 2:
            raise ConfigError("network has one student, but CLD needs two; take the CoTrainedPair as network_def")
        self.ramp, self.weight_exponent, self.sampling_exponent = (
            GaussianRamp(theta_max),
            weight_exponent,
            sampling_exponent,
        )
        self.labeled = LabeledCounts(num_classes).to(self.device)
        self.confidences = [ClassConfidences(num_classes, momentum).to(self.device) for _ in range(2)]

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return super().members | {"labeled": self.labeled, "confidences": nn.ModuleList(self.confidences)}

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        outputs = network(torch.cat([image, unlabeled]))
        counts = self.labeled.update(label)
        weight = (counts.max() / counts) ** self.weight_exponent
        weight = (weight * len(weight) / weight.sum()).float()
        labels = [most_probable(logits) for logits in outputs]
        supervised, unsupervised = [], []
        for number, logits in enumerate(outputs):
            supervised.append(self.loss(logits[: len(image)], label, weight))
            probability = logits[: len(image)].detach().float().softmax(dim=1)
            confidence = self.confidences[number].update(probability, label)
            rates = sampling_rates(confidence, self.sampling_exponent)
            drawn = uniform(tuple(labels[number].shape), self.device, self.generator) < rates[labels[number]]
            unsupervised.append(weighted_cross_entropy(logits, labels[1 - number], weight, drawn))
        theta = self.ramp(share)
        return {"supervised": torch.stack(supervised).sum(), "unsupervised": theta * torch.stack(unsupervised).sum()}
