"""Reads what decides over a training from the objects that train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine
from monai.handlers import ValidationHandler

from ..runtime.digests import describe
from ..runtime.distributed import world_size
from ..runtime.run_settings import describe_network
from .reproducibility import EpochSeeder

NOT_OF_LOGITS = frozenset({"feature_layers", "per_voxel", "precision", "with_signature", "sw_batch_size"})
"""Settings of an inferer that change its signatures or its speed, but not what it segments."""


def training_settings(trainer: Engine, handlers: Sequence[Any]) -> dict[str, Any]:
    """Returns the settings of a training in JSON, beside its data, its first weights and its length.

    The device is none of them, nor the precision that follows from it: what was trained on a GPU may be gone on with
    anywhere.

    Args:
        trainer: MONAI's trainer.
        handlers: of the trainer.
    """
    parts: Any = trainer
    loader = parts.data_loader
    return {
        "network": describe_network(parts.network),
        "loss": describe(parts.loss_function, where="loss"),
        "transform": describe(getattr(loader.dataset, "transform", None), where="transform"),
        "sampling": [loader.sampler.seed, loader.sampler.total, loader.batch_size, world_size()],
        "seeds": [handler.seed for handler in handlers if isinstance(handler, EpochSeeder)],
        "validation": [_validation(handler) for handler in handlers if isinstance(handler, ValidationHandler)],
    }


def _validation(handler: ValidationHandler) -> list[Any]:
    """How often a training is validated, and how."""
    inferer = describe(vars(handler.validator.inferer), where="inferer")
    kept = {name: value for name, value in inferer.items() if name not in NOT_OF_LOGITS and not name.startswith("_")}
    return [handler.interval, kept]
