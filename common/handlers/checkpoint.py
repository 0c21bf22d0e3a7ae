"""Writes what training leaves on disk: the best weights, and a checkpoint from which it goes on."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from ..errors import ConfigError, WeightsError, one_line
from ..runtime.distributed import is_main_process, unwrap, wait_for_all
from ..runtime.files import write_atomically
from ..runtime.interrupts import Interrupted
from ..runtime.model_settings import SettingsWriter
from ..runtime.run_settings import config_settings, first_difference, object_settings, short_text
from ..runtime.weights import LANDMARKS_FILE, read_checkpoint, save_atomically
from ..spectral.digest import weights_digest
from .epochs import ends_epoch

logger = logging.getLogger(__name__)


class BestWeights:
    """After every validation, writes the weights if the key metric is above a floor and higher than ever before.

    MONAI's ``CheckpointSaver`` forgets the best value when a run is resumed; this one is part of the checkpoint.

    Args:
        network: Network that is saved, without a data-parallel wrapper.
        save_dir: Folder of the file of the weights.
        name: Name of the file. Default ``model.pt``.
        floor: Value that the metric must exceed, 0 by default; none with ``None``. A metric of 0 is no segmentation; it
            is also MONAI's mean of no Dice at all.
        landmarks_file: File of the scale that images are aligned to, a copy of which appears beside the weights when
            they do. Default none; nothing is copied where there is no such file.
        settings_writer: Writes beside the weights what the training has decided about data and network. Default none.
    """

    def __init__(
        self,
        network: nn.Module,
        save_dir: str | Path,
        *,
        name: str = "model.pt",
        floor: float | None = 0.0,
        landmarks_file: str | Path | None = None,
        settings_writer: SettingsWriter | None = None,
    ) -> None:
        self.network, self.path = network, str(Path(save_dir, name))
        self.landmarks_file, self.settings_writer = landmarks_file, settings_writer
        self.best, self.digest = -math.inf if floor is None else floor, ""

    def attach(self, engine: Engine) -> None:
        """Attaches to a validation engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compares the key metric and writes the weights, on the main process only."""
        value = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
        # Not a number is never the best.
        if not value > self.best:
            return
        self.best = value
        self.digest = weights_digest(unwrap(self.network).state_dict())
        if is_main_process():
            save_atomically(unwrap(self.network).state_dict(), self.path, announce=self.keep_companions)
            logger.info(
                "%s %.4f is the best so far: weights written to %s", engine.state.key_metric_name, value, self.path
            )  # type: ignore[attr-defined]

    def keep_companions(self) -> None:
        """Writes what belongs to the weights; an interrupted training leaves all as it was.

        These are the settings of the training, and a copy of the scale that images are aligned to.
        """
        if self.settings_writer is not None:
            self.settings_writer.write()
        kept = Path(self.path).with_name(LANDMARKS_FILE)
        learned = Path(self.landmarks_file or kept)
        if learned != kept and learned.is_file():
            with write_atomically(kept) as temporary:
                temporary.write_bytes(learned.read_bytes())

    def require(self) -> None:
        """Makes sure that the file holds the best weights of this run, before anything is fitted to them.

        Raises:
            WeightsError: When no validation gave a number, or the file holds other weights.
        """
        wait_for_all()
        if not self.digest:
            raise WeightsError(
                f"no validation gave a metric above 0, so {self.path} is of no use and no signature bank is fitted; "
                "check that validation labels hold foreground, or train longer"
            )
        if weights_digest(read_checkpoint(self.path)) != self.digest:
            raise WeightsError(f"{self.path} holds other weights than this run's best; resume with the same model_dir")
        # A run that went on from an older version's checkpoint may not have written them.
        if self.settings_writer is not None and is_main_process():
            self.settings_writer.write()

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value so far and the digest of its weights."""
        return {"best": self.best, "digest": self.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.best, self.digest = float(state["best"]), str(state["digest"])


class TrainingCheckpoint:
    """Writes a checkpoint after every epoch and, when asked, goes on from the last one.

    It is written twice: when the epoch's training is done, and when validation and all else that follows is done as
    well. A run that goes on from the first of the two begins with what follows, so that nothing is lost or different.

    Args:
        path: File of the checkpoint.
        members: Objects with ``state_dict`` and ``load_state_dict`` by their names: network, optimizer, handlers.
        resume: Whether to go on from ``path``. Default false.
        interval: Epochs between checkpoints, at least 1. Default 1.
        config: What the config parser has made of every id so far, as the expression ``$__local_refs`` gives it. The
            settings that decide over the training are derived from it, see :mod:`~..runtime.run_settings`. Default
            none.
        inputs: Digest of what the training starts from, of stages before it; with other inputs it starts anew. Default
            empty.

    Raises:
        MissingDataError: When the start finds no checkpoint to resume from.
        ConfigError: When the start resumes from a checkpoint of another run: other settings or cases.
        WeightsError: When the start resumes from a checkpoint that does not fit.
    """

    def __init__(
        self,
        path: str,
        members: Mapping[str, Any],
        *,
        resume: bool = False,
        interval: int = 1,
        config: Mapping[str, Any] | None = None,
        inputs: str = "",
    ) -> None:
        self.path, self.members, self.resume, self.interval = path, dict(members), resume, interval
        self.config: Mapping[str, Any] = {} if config is None else config
        self.inputs = inputs
        self._objects: dict[str, Any] = {}
        self._written = False

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handlers that change members at the end of an iteration."""
        # Before anything is used: transforms and schedules keep what they did last.
        self._objects = object_settings(self.config)
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=ends_epoch), self.write_trained)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.advise)

    def __call__(self, engine: Engine) -> None:
        """Writes the checkpoint of an epoch and of all that follows its training."""
        self._write(engine, {})

    def write_trained(self, engine: Engine) -> None:
        """Writes the checkpoint of an epoch's training, before validation, with the metrics of that training."""
        if engine.state.epoch % self.interval == 0:
            self._write(engine, {"trained": {name: float(value) for name, value in engine.state.metrics.items()}})

    def _write(self, engine: Engine, more: Mapping[str, Any]) -> None:
        """Writes on the main process; others take part where members gather their state from all."""
        states = self.states()
        if is_main_process():
            progress: dict[str, Any] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **more}
            progress |= {"inputs": self.inputs, "settings": self.settings}
            save_atomically(states | {"progress": progress}, self.path)
        self._written = True

    def advise(self, engine: Engine, error: BaseException) -> None:
        """Lets an error go on; an interruption tells how to resume."""
        if isinstance(error, Interrupted) and not error.advice:
            error.advice = (
                f"in epoch {engine.state.epoch}; the same command with --resume true goes on from {self.path}"
                if self._written
                else f"in epoch {engine.state.epoch}, before the first checkpoint; start the training again"
            )
        raise error

    @cached_property
    def settings(self) -> str:
        """What decides over the training, as the text of JSON."""
        return json.dumps(config_settings(self.config) | self._objects)

    def check(self) -> dict[str, Any]:
        """Returns the content of the checkpoint, of which it makes sure that it is of a run like this one.

        Raises:
            MissingDataError: When there is no checkpoint.
            ConfigError: When a setting differs, naming the first one with both values.
        """
        content = read_checkpoint(self.path)
        recorded = content.get("progress", {}).get("settings")
        if recorded is None:
            raise ConfigError(f"{self.path} does not tell its settings (an older version wrote it); leave resume out")
        # An option that came with a newer version, and is off, changes nothing.
        found = first_difference(json.loads(recorded), json.loads(self.settings), off_counts=False)
        if found:
            name, before, now = found
            raise ConfigError(
                f"{name} is {short_text(now)}, but {self.path} was trained with {short_text(before)}; resume with "
                "the options it was trained with, or leave resume out"
            )
        return content

    def states(self) -> dict[str, Any]:
        """Returns the state of every member."""
        return {name: _inner(member).state_dict() for name, member in self.members.items()}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Gives every member a state that :meth:`states` returned."""
        for name, member in self.members.items():
            _inner(member).load_state_dict(states[name])

    def load(self, engine: Engine) -> None:
        """Restores every member and the engine's progress, where the run shall go on from a checkpoint."""
        if not self.resume:
            return
        states = self.check()
        progress = states["progress"]
        if progress["inputs"] != self.inputs:
            logger.warning(
                "%s was written for other inputs than this run's: training starts from the beginning", self.path
            )
            return
        try:
            self.restore(states)
            engine.state.epoch, engine.state.iteration = progress["epoch"], progress["iteration"]
        except (KeyError, ValueError, RuntimeError) as error:
            # Torch's first line only names the class of the network.
            reason = one_line(" ".join(str(error).splitlines()[:2]))
            raise WeightsError(
                f"{self.path} is of another network or other settings ({reason}); resume with the options it was "
                "trained with, or leave resume out"
            ) from error
        self._written = True
        trained = progress.get("trained")
        logger.info(
            "resumed from %s after %s %d",
            self.path, "epoch" if trained is None else "the training of epoch", engine.state.epoch,
        )  # fmt: skip
        if trained is not None:
            engine.state.metrics |= trained
            with warnings.catch_warnings():
                # The optimizer has stepped, in the run that was ended.
                warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)`")
                # Validation and the rest, which the checkpoint was too early for.
                engine.fire_event(Events.EPOCH_COMPLETED)


def _inner(member: Any) -> Any:
    return unwrap(member) if isinstance(member, nn.Module) else member
