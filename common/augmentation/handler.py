"""Augments the batches of a training between its loader and its step."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor

from ..runtime.distributed import process_rank
from .batch import BatchAugmentation

UNLABELED = "unlabeled"
VIEW = "view"


class AugmentBatch:
    """Moves every batch to the device and augments it there, before the step sees it.

    ``image`` and ``label`` move together; ``label`` may belong to the first images alone. ``unlabeled``, images of
    their own, are changed by draws of their own. Draws depend on the seed, the epoch, the iteration and the process
    alone, so a resumed training sees the batches that an uninterrupted one would.

    Args:
        augmentation: What is done to a batch.
        second_view: Whether a second, independent augmentation of the images is added as ``view``, as SimCLR and BYOL
            compare. Default false.
    """

    def __init__(self, augmentation: BatchAugmentation, *, second_view: bool = False) -> None:
        self.augmentation, self.second_view = augmentation, second_view

    def attach(self, engine: Engine) -> None:
        """Attaches to a trainer of MONAI, whose state knows the device."""
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replaces the batch of the engine's state."""
        state: Any = engine.state
        batch = {
            name: value.to(state.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in state.batch.items()
        }
        # Ranks share the order of the cases but must not share draws.
        step = (state.epoch, state.iteration, process_rank())
        images = batch["image"]
        batch["image"], labels = self.augmentation(images, batch.get("label"), step=(*step, 0))
        batch |= {} if labels is None else {"label": labels}
        if UNLABELED in batch:
            batch[UNLABELED], _ = self.augmentation(batch[UNLABELED], step=(*step, 1))
        if self.second_view:
            batch[VIEW], _ = self.augmentation(images, step=(*step, 2))
        state.batch = batch
