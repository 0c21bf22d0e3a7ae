"""Describes a training as a whole, from its first weights to its best: what stages run, skip and go on with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import ValidationHandler
from torch.utils.data import Subset

from ..handlers import (
    AveragedWeights,
    BestWeights,
    ChangeBatch,
    EpochSeeder,
    MovableWriter,
    TrainingCheckpoint,
    TrainingHistory,
)
from ..runtime.digests import describe, settings_digest
from ..runtime.distributed import unwrap, world_size
from ..runtime.run_settings import describe_network
from ..runtime.stages import file_digest
from ..spectral.digest import weights_digest
from .training import Trainer

NOT_OF_LOGITS = frozenset({"feature_layers", "per_voxel", "precision", "with_signature", "sw_batch_size"})
"""Settings of an inferer that change its signatures or its speed, but not what it segments."""


@dataclass(frozen=True)
class Course:
    """One training, from its first weights to its best; it may be run again from the start in another folder.

    Args:
        trainer: Trainer, whose data loader draws by a :class:`PatchSampler`.
    """

    trainer: Trainer

    @property
    def best(self) -> BestWeights:
        """Writes the best weights."""
        return self.trainer.progress.best

    @property
    def history(self) -> TrainingHistory:
        """Writes the numbers of every epoch."""
        return self.trainer.progress.history

    @property
    def checkpoint(self) -> TrainingCheckpoint:
        """Writes the checkpoint from which the training goes on."""
        return self.trainer.progress.checkpoint

    @property
    def board(self) -> MovableWriter:
        """Writes the TensorBoard events."""
        return self.trainer.progress.log.board

    @property
    def device(self) -> Any:
        """Where the network runs."""
        return next(unwrap(self.best.network).parameters()).device

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint."""
        return Path(self.checkpoint.path).is_file()

    def states(self) -> dict[str, Any]:
        """Returns a copy of all that a training changes, for :meth:`restart`."""
        return copy.deepcopy(self.checkpoint.states())

    def inputs(self, states: Mapping[str, Any], **further: Any) -> dict[str, str]:
        """Returns digests of all that decides over it, beside the data.

        Args:
            states: States that the training starts from, see :meth:`states`.
            **further: Settings that the objects of the training do not hold.
        """
        members = {name: state for name, state in states.items() if name != "network"}
        described = training_settings(self.trainer, self.trainer.train_handlers) | {"members": members} | further
        weights = [weights_digest(states["network"]), *map(file_digest, self.trainer.given_weights)]
        return {
            "settings": settings_digest(described),
            "initial weights": settings_digest(weights),
            "length": str(self.trainer.state.max_epochs),
        }

    def restart(self, states: Mapping[str, Any], folder: Path, weights_file: Path) -> None:
        """Sets everything back to a start and lets all that is written go elsewhere.

        Args:
            states: States that the training starts from, see :meth:`states`.
            folder: Folder of the results.
            weights_file: File of the best weights.
        """
        self.checkpoint.restore(copy.deepcopy(dict(states)))
        self.best.path, self.history.output_dir = str(weights_file), folder
        self.board.move(folder)
        self.checkpoint.path = str(folder / "checkpoint.pt")
        self.trainer.state.epoch = self.trainer.state.iteration = 0
        validation: Any = self.history.evaluator.state
        validation.best_metric = validation.best_metric_epoch = -1

    def check_resumed(self) -> None:
        """Makes sure that a checkpoint from which it goes on is one of this very training.

        Raises:
            ConfigError: When a setting differs, naming the first one.
        """
        if self.checkpoint.resume and self.begun:
            self.checkpoint.check()

    def run(self, inputs: Mapping[str, str], indices: Sequence[int], *, resume: bool) -> None:
        """Trains on the patches or slices of these numbers.

        Args:
            inputs: Digests of all that decides over the result.
            indices: Numbers of patches or slices, from 0.
            resume: Whether to go on from a checkpoint of the same inputs.

        Raises:
            WeightsError: When no validation gave a number.
            NotEnoughCasesError: When there is nothing to train on.
        """
        self.trainer.data_loader.sampler.choose(indices)  # type: ignore[attr-defined]
        self.checkpoint.inputs = settings_digest({key: value for key, value in inputs.items() if key != "length"})
        self.checkpoint.resume = resume
        self.trainer.state.epoch_length = len(self.trainer.data_loader)  # type: ignore[attr-defined]
        self.trainer.run()
        self.board.flush()
        self.best.require()


def training_settings(trainer: Engine, handlers: Sequence[Any]) -> dict[str, Any]:
    """Returns the settings of a training in JSON, beside its data, its first weights and its length.

    The device is not one of them, nor is the precision that follows from it: a training on a GPU may go on anywhere.

    Args:
        trainer: MONAI's trainer.
        handlers: Handlers of the trainer.
    """
    parts: Any = trainer
    loader = parts.data_loader
    return {
        "network": describe_network(parts.network),
        "loss": describe(parts.loss_function, where="loss"),
        "transform": describe(getattr(loader.dataset, "transform", None), where="transform"),
        "augmentation": describe(parts.augmentation, where="augmentation"),
        "batches": [
            describe(vars(handler), where="batches") for handler in handlers if isinstance(handler, ChangeBatch)
        ],
        "schedule": [
            describe(getattr(parts.progress.schedule, name, None), where=name)
            for name in ("decline", "warm_up", "head_share")
        ],
        "gradient clip": parts.gradient_clip,
        "average": _average(parts.progress.average),
        "sampling": [loader.sampler.seed, loader.sampler.total, loader.batch_size, world_size()],
        "seeds": [handler.seed for handler in handlers if isinstance(handler, EpochSeeder)],
        "validation": [_validation(handler) for handler in handlers if isinstance(handler, ValidationHandler)],
    }


def _average(average: AveragedWeights | None) -> Any:
    """Which average is validated, and whether the last weights are as well."""
    if average is None:
        return None
    return [average.ema.ema_decay, "compared"] if average.compare else average.ema.ema_decay


def _validation(handler: ValidationHandler) -> list[Any]:
    """How often a training is validated, and how."""
    inferer = describe(vars(handler.validator.inferer), where="inferer")
    kept = {name: value for name, value in inferer.items() if name not in NOT_OF_LOGITS and not name.startswith("_")}
    measured = getattr(handler.validator, "data_loader", None)
    chosen = getattr(measured, "dataset", None)
    return [handler.interval, kept, *([list(chosen.indices)] if isinstance(chosen, Subset) else [])]
