"""Augments what a batch of a training holds: images with labels, unlabeled images, second views."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import BatchAugmentation

UNLABELED = "unlabeled"
VIEW = "view"
OOD = "ood"


class AugmentBatch:
    """Augments every image of a batch, as a change for ``ChangeBatch``.

    ``image`` and ``label`` move together; ``label`` may belong to the first images alone. ``unlabeled``, images of
    their own, are changed by draws of their own. ``ood``, ``(B,)`` bool, marks images without foreground.

    Args:
        augmentation: What is done to images.
        second_view: Whether a second, independent augmentation of the images is added as ``view``, as SimCLR and BYOL
            compare. Default false.
        augment_ood: Whether images that the batch marks as ``ood`` are changed as well. Default true.
    """

    def __init__(self, augmentation: BatchAugmentation, *, second_view: bool = False, augment_ood: bool = True) -> None:
        self.augmentation, self.second_view, self.augment_ood = augmentation, second_view, augment_ood

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Returns the augmented batch; the given one stays as it is.

        Args:
            batch: Tensors by name, of which ``image``, ``(B, C, H, W[, D])``, must be there.
            generator: Generator on the CPU.
        """
        changed = dict(batch)
        changed["image"], labels = self.augmentation(batch["image"], batch.get("label"), generator=generator)
        if not self.augment_ood:
            # Their labels are empty, whatever is done to them.
            kept = batch[OOD].reshape(-1, *[1] * (batch["image"].ndim - 1))
            changed["image"] = torch.where(kept, batch["image"], changed["image"])
        changed |= {} if labels is None else {"label": labels}
        if UNLABELED in batch:
            changed[UNLABELED], _ = self.augmentation(batch[UNLABELED], generator=generator)
        if self.second_view:
            changed[VIEW], _ = self.augmentation(batch["image"], generator=generator)
        return changed
