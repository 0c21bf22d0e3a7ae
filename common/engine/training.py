"""Makes the trainer of all bundles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, MLFlowHandler

from ..augmentation import AugmentBatch, BatchAugmentation
from ..handlers import ChangeBatch, ChannelsLast, TrainingProgress
from ..handlers.schedule import iteration_loss
from ..runtime.distributed import is_cuda
from ..runtime.reasons import plain_training_errors
from .optimizers import GradientClipping

logger = logging.getLogger(__name__)

AUGMENTATION = 1
"""Stream of the draws of the augmentation; 0 is that of other changes of a batch."""


class Trainer(SupervisedTrainer):
    """MONAI's trainer, without decollation, with mixed precision on a GPU, and with a record of its progress.

    Nothing in these trainings looks at single cases of a batch. Bfloat16 has the range of float32: no loss is scaled.

    Args:
        device: Device that the network runs on.
        progress: Records the training; attached after all other handlers.
        train_handlers: The other handlers. Default none.
        augmentation: What is done to every batch on its device before the step. Default nothing.
        second_view: Whether a batch gets a second augmentation of its images, see ``AugmentBatch``. Default false.
        augment_ood: Whether images that a batch marks as negatives are augmented, see ``AugmentBatch``. Default true.
        gradient_clip: Largest norm of the gradient, above 0. Default none.
        amp: Whether to compute in bfloat16 where that is safe. Default on a GPU alone.
        **settings: Those of ``SupervisedTrainer``.
    """

    def __init__(
        self,
        device: str | torch.device,
        *,
        progress: TrainingProgress,
        train_handlers: Sequence[Any] = (),
        augmentation: BatchAugmentation | None = None,
        second_view: bool = False,
        augment_ood: bool = True,
        gradient_clip: float | None = None,
        amp: bool | None = None,
        **settings: Any,
    ) -> None:
        self.progress, self.train_handlers = progress, list(train_handlers)
        for handler in self.train_handlers:
            if isinstance(handler, MLFlowHandler):
                # What --tracking mlflow adds reads the loss of decollated outputs.
                handler.output_transform = iteration_loss
        own: dict[str, Any] = {"decollate": False, "optim_set_to_none": True}
        self.augmentation, self.gradient_clip, self.augment_ood = augmentation, gradient_clip, augment_ood
        # Federated clients train round by round, each with a number of epochs of its own.
        self.planned_epochs = int(settings.get("max_epochs", 0))
        first = []
        if augmentation is not None:
            change = AugmentBatch(augmentation, second_view=second_view, augment_ood=augment_ood)
            first = [ChangeBatch(change, seed=augmentation.seed, stream=AUGMENTATION)]
        network = settings["network"]
        # With MONAI's own ``amp`` losses are scaled, and gradients clipped while they are; and on a GPU alone.
        self.autocasts = is_cuda(device) if amp is None else amp
        layout = ChannelsLast(network, device, amp=self.autocasts)
        last = [GradientClipping(network, gradient_clip), *self.train_handlers, layout, progress]
        super().__init__(device=device, train_handlers=[*first, *last], **(own | settings))

    def run(self) -> None:
        """Trains.

        Raises:
            ConfigError: When the patches are too small for the network.
        """
        for path in self.given_weights:
            logger.info("starts from the weights in %s", path)
        with plain_training_errors(), self.progress.log:
            super().run()

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        """MONAI's iteration, in bfloat16 where that is safe."""
        with torch.autocast(torch.device(self.state.device).type, dtype=torch.bfloat16, enabled=self.autocasts):
            return super()._iteration(engine, batchdata)

    @property
    def given_weights(self) -> list[str]:
        """Files of weights that are loaded when it starts, over whatever the network holds by then."""
        loaded = [str(handler.load_path) for handler in self.train_handlers if isinstance(handler, CheckpointLoader)]
        return loaded if self.progress.initial_weights is None else [*loaded, self.progress.initial_weights]
