"""Keeps an average feature of each class and compares features of voxels with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ...metrics.masks import class_masks
from ...runtime.distributed import sum_over_processes
from ..draws import uniform


class Prototypes(nn.Module):
    """Exponential moving average of the mean feature of each class; the first batch that shows a class is copied.

    Args:
        num_classes: Number of classes C, background included.
        channels: Number of channels of the features, n.
        momentum: Momentum of the average, in [0, 1]; 0.99 by default.
    """

    centers: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, channels: int, *, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centers", torch.zeros(num_classes, channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor, counted: Tensor) -> None:
        """Moves the prototypes of the classes that a batch shows, over all processes.

        Args:
            features: Feature maps, ``(B, n, H, W[, D])``.
            label: Class indices, ``(B, 1, H, W[, D])``.
            counted: Voxels that count, bool, of the shape of ``label``.
        """
        masks = (class_masks(label, len(self.seen)) & counted).movedim(1, 0).flatten(1).to(features.dtype)
        sums = sum_over_processes(masks @ features.movedim(1, -1).flatten(0, -2))
        counts = sum_over_processes(masks.sum(dim=1))
        found, present = sums / counts.clamp_min(1).unsqueeze(1), counts > 0
        moved = torch.where(self.seen.unsqueeze(1), self.centers.lerp(found, 1 - self.momentum), found)
        self.centers.copy_(torch.where(present.unsqueeze(1), moved, self.centers))
        self.seen.logical_or_(present)


def sample_voxels(
    label: Tensor, counted: Tensor, num_classes: int, samples: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns as many voxels of each class, drawn at random, without waiting for the device.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``.
        counted: Voxels that may be drawn, bool, of the shape of ``label``.
        num_classes: Number of classes C, background included.
        samples: Number of voxels of each class; of a class with fewer, the rest is not valid.
        generator: Generator of the draw, on the CPU. With ``None``, the default, torch's own.

    Returns:
        Places among all voxels, counted over ``B, H, W[, D]``, their classes, and whether they are valid: ``(C * k,)``
        each, where k is ``samples``, or the number of voxels if that is smaller.
    """
    masks = (class_masks(label, num_classes) & counted).movedim(1, 0).flatten(1)
    lots = uniform((masks.shape[1],), label.device, generator)
    best = torch.where(masks, lots, -1.0).topk(min(samples, masks.shape[1]), dim=1)
    classes = torch.arange(num_classes, device=label.device).unsqueeze(1).expand_as(best.indices)
    return best.indices.flatten(), classes.flatten(), (best.values >= 0).flatten()


def prototype_contrast(
    features: Tensor, classes: Tensor, centers: Tensor, seen: Tensor, valid: Tensor, temperature: float
) -> Tensor:
    """Returns the mean of ``-log softmax(cos(feature, centers) / temperature)`` at the class of each feature.

    Args:
        features: Features of voxels, ``(M, n)``.
        classes: Class of each, ``(M,)``.
        centers: Prototypes, ``(C, n)``; no gradient reaches them.
        seen: Classes that have a prototype, ``(C,)`` bool; features of others do not count.
        valid: Features that count, ``(M,)`` bool.
        temperature: Temperature, above 0.
    """
    cosines = normalize(features, dim=1) @ normalize(centers.detach(), dim=1).T / temperature
    losses = cross_entropy(cosines.masked_fill(~seen, -1e4), classes, reduction="none")
    counted = valid & seen[classes]
    return (losses * counted).sum() / counted.sum().clamp_min(1)
