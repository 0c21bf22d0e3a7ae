"""Logs a run: a line for every epoch, a bar in between on a terminal, and TensorBoard events."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ignite.engine import Engine, Events

from ..runtime.distributed import is_main_process, world_size
from ..runtime.progress import LINE_SECONDS, Bar, Clock, Pace, listed, rate_text, time_text
from .board import EpochBoardHandler, IterationBoardHandler, MovableWriter, PictureBoardHandler
from .epochs import ends_epoch, total_iterations
from .schedule import iteration_loss

logger = logging.getLogger(__name__)

IMAGES = ("image", "unlabeled")
"""Entries of a batch that hold its images."""


def count_images(batch: Any) -> int:
    """Returns the number of images of a batch; a batch that is no dictionary of images counts as one."""
    if not isinstance(batch, Mapping):
        return 1
    return sum(len(batch[name]) for name in IMAGES if name in batch) or 1


class EpochLog:
    """Logs a line for every epoch: loss, metrics, images per second, and the time left for the whole training.

    On a terminal a bar shows them in between, elsewhere a line every 30 seconds at most. The loss there is that of one
    iteration. It is read at most once a second for a bar, and once a line, so that no GPU is waited for in every step.
    The rate is that of the epoch's training alone. The time left follows from the iterations of this process, with all
    that goes on between them. A validation that takes longer than the training since the last one is warned of, once.
    Figures of single classes, such as ``weight_a/1``, are left to ``metrics.json`` and TensorBoard.

    Args:
        evaluator: Validation engine, whose metrics are logged when it ran in the epoch.
        clock: Function that returns the time in seconds. Default the monotonic one.
    """

    def __init__(self, evaluator: Engine, *, clock: Clock = time.monotonic) -> None:
        self.evaluator, self.clock = evaluator, clock
        self.bar: Bar | None = None
        self._training, self._epoch = Pace(0, clock=clock), Pace(0, clock=clock)
        self._rate, self._validated = math.nan, False
        self._told, self._trained = clock(), clock()
        self._validation = Pace(0, clock=clock)
        self._warned, self._epochs = False, 0

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handlers that validate and whose metrics are logged."""
        engine.add_event_handler(Events.STARTED, self.close)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)
        self.evaluator.add_event_handler(Events.STARTED, self._start_validation)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._show_validation)
        self.evaluator.add_event_handler(Events.COMPLETED, self._note_validation)

    def __call__(self, engine: Engine) -> None:
        """Logs the epoch."""
        found = dict(engine.state.metrics)
        shown = {"loss": found.pop("train_loss")} if "train_loss" in found else {}
        shown |= found | (self.evaluator.state.metrics if self._validated else {})
        self._validated = False
        self._told = self.clock()
        metrics = [f"{name} {float(value):.4f}" for name, value in shown.items() if "/" not in name]
        logger.info("%s: %s", _title(engine), listed(*metrics, self._speed()))

    def close(self, *_: Engine, keep: bool = False) -> None:
        """Ends the bar.

        Args:
            *_: The engine, where an event calls.
            keep: Whether the bar stays to be seen, as after an interruption. Default false.
        """
        if self.bar is not None:
            self.bar.close(keep=keep)
            self.bar = None

    def _start_epoch(self, engine: Engine) -> None:
        """Begins to count; not before, since handlers that come earlier may go on from a checkpoint."""
        self._epochs = engine.state.max_epochs or 0
        if self.bar is None:
            total, done = total_iterations(engine), engine.state.iteration
            self._training = Pace(total, done=done, clock=self.clock)
            self.bar = Bar(total, _title(engine), done=done, clock=self.clock)
            self._told = self._trained = self.clock()
        self._epoch = Pace(0, clock=self.clock)

    def _count(self, engine: Engine) -> None:
        """Counts an iteration."""
        self._training.done, self._training.total = engine.state.iteration, total_iterations(engine)
        self._epoch.done += count_images(engine.state.batch) * world_size()
        self._rate = self._epoch.rate
        if self.bar is not None and self.bar.is_due:
            self.bar.draw(self._training.done, listed(_loss_text(engine), self._speed()), _title(engine))
        elif self._line_is_due and not ends_epoch(engine, engine.state.iteration):
            done = f"iteration {engine.state.iteration} of {self._training.total}"
            self._tell(f"{_title(engine)}: {listed(done, _loss_text(engine), self._speed())}")

    @property
    def _line_is_due(self) -> bool:
        """Whether there is no bar, and nothing was told for so long that a user would wonder."""
        return (self.bar is None or not self.bar.visible) and self.clock() - self._told >= LINE_SECONDS

    def _tell(self, line: str) -> None:
        """Logs a line, after which there is none for some time."""
        self._told = self.clock()
        logger.info("%s", line)

    def _start_validation(self, evaluator: Engine) -> None:
        """Begins to count the cases of a validation."""
        self._validation = Pace(evaluator.state.epoch_length or 0, clock=self.clock)

    def _show_validation(self, evaluator: Engine) -> None:
        """Tells why the bar stands still, or no line comes."""
        pace, state = self._validation, evaluator.state
        pace.done, pace.total = state.iteration, state.epoch_length or 0
        text = f"validation {pace.done}/{pace.total}"
        if self.bar is not None and self.bar.is_due:
            self.bar.draw(self._training.done, text)
        elif self._line_is_due and pace.done < pace.total:
            self._tell(listed(text, f"{time_text(pace.left)} left"))

    def _note_validation(self, _evaluator: Engine) -> None:
        """Notes that there are metrics, and warns once where they cost more than what they measure."""
        self._validated = True
        before, took = self._validation.start - self._trained, self._validation.seconds
        self._trained = self.clock()
        # One validation of one image cannot be less.
        avoidable = self._validation.total > 1 or self._epochs > 1
        if took > max(before, LINE_SECONDS) and avoidable and not self._warned:
            self._warned = True
            logger.warning(
                "a validation of %d image(s) took %s, the training before it %s: raise val_interval, or let val_cases "
                "choose some of them",
                self._validation.total, time_text(took), time_text(before),
            )  # fmt: skip

    def _speed(self) -> str:
        """Images per second and the time left, or how long it took."""
        pace = self._training
        ended = pace.done >= pace.total
        time_told = f"done in {time_text(pace.seconds)}" if ended else f"{time_text(pace.left)} left"
        return listed(rate_text(self._rate, "images"), time_told)


def _loss_text(engine: Engine) -> str:
    """The loss of one iteration; this waits for the device."""
    return f"loss {float(iteration_loss(engine.state.output)):.4f}"


def _title(engine: Engine) -> str:
    """Which epoch it is, of how many."""
    return f"epoch {engine.state.epoch}/{engine.state.max_epochs}"


class RunLog:
    """Logs the metrics of every epoch, as lines and as TensorBoard events, on the main process alone.

    As a context around the training it leaves the terminal clean, whatever ends the training.

    Args:
        output_dir: Folder of the events.
        evaluator: Validation engine, which is logged as well.
    """

    def __init__(self, output_dir: str, evaluator: Engine) -> None:
        self.board, self.evaluator = MovableWriter(output_dir), evaluator
        self.lines = EpochLog(evaluator)

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handlers that validate and whose metrics are logged."""
        if is_main_process():
            self.lines.attach(engine)
            for part in (engine, self.evaluator):
                EpochBoardHandler(self.board).attach(part)
            IterationBoardHandler(self.board).attach(engine)
            PictureBoardHandler(self.board, engine).attach(self.evaluator)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lines.close(keep=kind is not None)
