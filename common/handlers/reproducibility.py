"""Makes randomness depend on the seed and the epoch alone."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from ..runtime.distributed import process_rank


class EpochSeeder:
    """Seeds sampler, transforms and torch at the start of every epoch.

    So a run resumed after epoch k draws in epoch k + 1 what an uninterrupted run draws there.

    Args:
        seed: Seed of the run, an integer.
        transform: Random transforms, with a method ``set_random_state``; workers of a data loader get their seeds from
            torch. Default none.
        generator: Generator of what else is drawn in an iteration. Default none.
    """

    def __init__(self, seed: int, transform: Any = None, generator: torch.Generator | None = None) -> None:
        self.seed, self.transform, self.generator = seed, transform, generator

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine of MONAI, whose data loader, or the sampler of that, has ``set_epoch``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds everything for the epoch that starts."""
        epoch = engine.state.epoch
        # Ranks share the sampler's list but must not share augmentations.
        seed = (self.seed * 1_000_003 + epoch * 1_009 + process_rank()) % 2**31
        loader: Any = engine.data_loader  # type: ignore[attr-defined]
        # Loaders that make batches of their own seed themselves.
        (loader if hasattr(loader, "set_epoch") else loader.sampler).set_epoch(epoch)
        if self.transform is not None:
            self.transform.set_random_state(seed=seed)
        torch.manual_seed(seed)
        if self.generator is not None:
            self.generator.manual_seed(seed)
