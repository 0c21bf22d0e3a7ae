"""Keeps predictions smooth under adversarial noise and draws features to prototypes of their class: SS-Net."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...class_weights import most_probable
from ...errors import ConfigError
from ...runtime.distributed import unwrap
from ..features import FeatureTap
from ..step import GaussianRamp
from ..students import StudentStep, Terms, check_share
from .prototypes import Prototypes, prototype_contrast, sample_voxels

XI = 10.0
"""Norm of the noise whose gradient gives the adversarial direction."""


def soft_dice_distance(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean over classes of ``1 - 2 * sum(p * q) / sum(p ** 2 + q ** 2)`` over the batch, smoothing 1e-5.

    Args:
        first: Softmax probabilities, ``(B, C, H, W[, D])``.
        second: Softmax probabilities of the same shape.
    """
    axes = [0, *range(2, first.ndim)]
    shared, total = (first * second).sum(axes), (first.square() + second.square()).sum(axes)
    return (1 - (2 * shared + 1e-5) / (total + 1e-5)).mean()


def unit(images: Tensor) -> Tensor:
    """Returns images scaled to a Euclidean norm of 1 each; zeros stay."""
    norm = images.flatten(1).norm(dim=1).clamp_min(1e-12)
    return images / norm.reshape(-1, *[1] * (images.ndim - 1))


class SSNetStep(StudentStep):
    """One iteration of SS-Net.

    Wu et al., *Exploring Smoothness and Class-Separation for Semi-supervised Medical Image Segmentation*, MICCAI 2022.
    Smoothness: the prediction must not change under noise of norm ``magnitude`` in the direction that changes it most,
    found by one step of virtual adversarial training; their distance is that of soft Dice. Separation: features of
    labeled voxels, and of unlabeled ones whose probability reaches ``confidence``, approach the prototype of their
    class.

    The paper keeps 32 features of each class that are good prototypes, weighs them by learned attention behind a
    projection, and attracts alone. Here the prototype is the average of the correctly predicted labeled voxels, and a
    softmax over the cosines to all prototypes also repels. The norm of the noise counts a whole image.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        tap: Where the feature maps are.
        channels: Number of channels of the feature maps.
        magnitude: Norm of the adversarial noise of an image, above 0. 6 by default, the paper's on cardiac slices; 10
            on atria.
        theta_max: Weight of both terms at the end of the training, at least 0. 1, the paper's, by default.
        separation_weight: Weight of the separation beside the smoothness, at least 0. 0.1 by default.
        confidence: Smallest probability of an unlabeled voxel that counts, in [0, 1]. 0.8 by default.
        temperature: Temperature of the softmax over prototypes, above 0. 0.1 by default.
        momentum: Momentum of the prototypes, in [0, 1]. 0.99 by default.
        samples: Number of voxels of each class that a batch compares, at least 1. 64 by default.
        **settings: Further arguments of :class:`StudentStep`.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "smoothness", "separation")
    averages: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        *,
        num_classes: int,
        tap: FeatureTap,
        channels: int,
        magnitude: float = 6.0,
        theta_max: float = 1.0,
        separation_weight: float = 0.1,
        confidence: float = 0.8,
        temperature: float = 0.1,
        momentum: float = 0.99,
        samples: int = 64,
        **settings: Any,
    ) -> None:
        super().__init__(network, loss, **settings)
        check_share("momentum", momentum)
        check_share("confidence", confidence)
        for name, value in {"magnitude": magnitude, "temperature": temperature, "samples": samples}.items():
            if not value > 0:
                raise ConfigError(f"{name} is {value}; accepted are numbers above 0")
        if not separation_weight >= 0:
            raise ConfigError(f"separation_weight is {separation_weight}; accepted are factors from 0")
        self.ramp, self.tap, self.magnitude = GaussianRamp(theta_max), tap, magnitude
        self.separation_weight, self.confidence = separation_weight, confidence
        self.temperature, self.samples = temperature, samples
        self.prototypes = [
            Prototypes(num_classes, channels, momentum=momentum).to(self.device) for _ in range(self.students)
        ]

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return super().members | {"prototypes": nn.ModuleList(self.prototypes)}

    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, see :class:`StudentStep`."""
        images, theta = torch.cat([image, unlabeled]), self.ramp(share)
        with self.tap.watch() as maps:
            outputs = network(images)
        supervised = torch.stack([self.loss(logits[: len(image)], label) for logits in outputs]).sum()
        pairs = enumerate(zip(maps, outputs, strict=True))
        separation = torch.stack([self._separate(number, *pair, label) for number, pair in pairs]).sum()
        noise = self._adversarial_noise(unwrap(network), images, outputs)
        smoothness = self._distance(network(images + noise), outputs)
        return {
            "supervised": supervised,
            "smoothness": theta * smoothness,
            "separation": theta * self.separation_weight * separation,
        }

    def _adversarial_noise(self, network: nn.Module, images: Tensor, outputs: Any) -> Tensor:
        """Noise of the given norm in the direction that changes the predictions most."""
        drawn = torch.randn(images.shape, generator=self.generator)
        direction = unit(drawn.to(images.device, non_blocking=True)).requires_grad_()
        distance = self._distance(network(images + XI * direction), outputs)
        (gradient,) = torch.autograd.grad(distance, direction)
        return self.magnitude * unit(gradient)

    @staticmethod
    def _distance(logits: Any, outputs: Any) -> Tensor:
        """Distance of the students' predictions to what they say of the images as they are."""
        pairs = zip(logits, outputs, strict=True)
        softened = [(now.float().softmax(1), before.detach().float().softmax(1)) for now, before in pairs]
        return torch.stack([soft_dice_distance(*pair) for pair in softened]).sum()

    def _separate(self, number: int, features: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """Distance of the features of a student to the prototypes, which the labeled ones move first."""
        if features.shape[2:] != label.shape[2:]:
            raise ConfigError(
                f"feature_layers names a map of {tuple(features.shape[2:])} voxels for images of "
                f"{tuple(label.shape[2:])}; name one of full size"
            )
        prototypes, given = self.prototypes[number], len(label)
        highest, pseudo = logits.detach().float().softmax(dim=1).max(dim=1, keepdim=True)
        correct = most_probable(logits[:given]) == label
        prototypes.update(features[:given].detach().float(), label, correct)
        target = torch.cat([label, pseudo[given:]])
        counted = torch.cat([torch.ones_like(correct), highest[given:] >= self.confidence])
        found = sample_voxels(target, counted, len(prototypes.seen), self.samples, generator=self.generator)
        places, classes, valid = found
        chosen = features.float().movedim(1, -1).flatten(0, -2)[places]
        return prototype_contrast(chosen, classes, prototypes.centers, prototypes.seen, valid, self.temperature)
