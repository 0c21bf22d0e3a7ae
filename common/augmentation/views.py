"""Augments what a batch of a training holds: images with labels, unlabeled images, second views."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import BatchAugmentation

UNLABELED = "unlabeled"
VIEW = "view"


class AugmentBatch:
    """Augments every image of a batch, as a change for ``ChangeBatch``.

    ``image`` and ``label`` move together; ``label`` may belong to the first images alone. ``unlabeled``, images of
    their own, are changed by draws of their own.

    Args:
        augmentation: What is done to images.
        second_view: Whether a second, independent augmentation of the images is added as ``view``, as SimCLR and BYOL
            compare. Default false.
    """

    def __init__(self, augmentation: BatchAugmentation, *, second_view: bool = False) -> None:
        self.augmentation, self.second_view = augmentation, second_view

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Returns the augmented batch; the given one stays as it is.

        Args:
            batch: Tensors by name, of which ``image``, ``(B, C, H, W[, D])``, must be there.
            generator: Generator on the CPU.
        """
        changed = dict(batch)
        changed["image"], labels = self.augmentation(batch["image"], batch.get("label"), generator=generator)
        changed |= {} if labels is None else {"label": labels}
        if UNLABELED in batch:
            changed[UNLABELED], _ = self.augmentation(batch[UNLABELED], generator=generator)
        if self.second_view:
            changed[VIEW], _ = self.augmentation(batch["image"], generator=generator)
        return changed
