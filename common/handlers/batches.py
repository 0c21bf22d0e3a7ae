"""Changes the batches of a training between its loader and its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ..runtime.distributed import process_rank
from ..runtime.seeds import step_generator

Change = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]
"""Takes a batch on its device and the generator of the step; returns the changed batch."""


class ChangeBatch:
    """Moves every batch to the device and changes it there, before the step sees it.

    Draws depend on the seed, the epoch, the iteration and the process alone. So a resumed training sees the batches
    that an uninterrupted one would, whatever cases they hold. Nothing waits for the device.

    Args:
        change: Function of the batch and of the generator of the step, which returns the changed batch.
        seed: Seed of the draws, at least 0. Default 0.
        stream: Number of the change, at least 0, so that several changes of a training draw apart. Default 0.
    """

    def __init__(self, change: Change, *, seed: int = 0, stream: int = 0) -> None:
        self.change, self.seed, self.stream = change, seed, stream

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
        step = (state.epoch, state.iteration, process_rank(), self.stream)
        state.batch = self.change(batch, step_generator(self.seed, *step))
