"""Writes TensorBoard events of a run: numbers by epoch and by iteration, and pictures of validations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from ..figures.slices import telling_slice
from ..runtime.sparing import sparing
from .schedule import iteration_loss
from .terms import iteration_terms


class MovableWriter:
    """A ``SummaryWriter`` that is made when it is first written to, and may go on in another folder.

    What cannot be written is a warning; nothing more is written to that folder then.

    Args:
        output_dir: Folder of the events.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir
        self._writer: SummaryWriter | None = None
        self._failed = False

    def move(self, output_dir: str | Path) -> None:
        """Writes to another folder from now on."""
        self.close()
        self.output_dir, self._failed = str(output_dir), False

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Writes a number, see ``SummaryWriter``."""
        self._write("add_scalar", *args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        """Writes a picture, see ``SummaryWriter``."""
        self._write("add_image", *args, **kwargs)

    def flush(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            self._write("flush")

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._write("close")
            self._writer = None

    def _write(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Calls a method of the writer, which is made where there is none."""
        if self._failed:
            return
        self._failed = True
        with sparing(f"TensorBoard events in {self.output_dir}"):
            if self._writer is None:
                self._writer = SummaryWriter(self.output_dir)
            getattr(self._writer, method)(*args, **kwargs)
            self._failed = False


class EpochBoardHandler(TensorBoardStatsHandler):
    """MONAI's ``TensorBoardStatsHandler`` for the metrics of every epoch.

    Args:
        board: Writer of the events; several handlers may share one.
    """

    def __init__(self, board: MovableWriter) -> None:
        super().__init__(summary_writer=board, iteration_log=False)


class IterationBoardHandler:
    """Writes loss and learning rate by iteration, as ``iteration/loss`` and ``iteration/learning_rate``.

    Where the loss is a sum of terms, each is written as well, as ``iteration/loss_<term>``. All stay on their device
    until the end of the epoch: no iteration waits for one.

    Args:
        board: Writer of the events.
        most: Largest number of points of an epoch, at least 1; of longer ones, every second, third, ... iteration is
            written. Default 200.
    """

    def __init__(self, board: MovableWriter, *, most: int = 200) -> None:
        self.board, self.most = board, most
        self._points: list[tuple[int, float | None, dict[str, torch.Tensor]]] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, whose ``optimizer`` tells the learning rate where it has one."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._points = []

    def _keep(self, engine: Engine) -> None:
        """Keeps the loss of an iteration and its terms, unread."""
        step = -(-(engine.state.epoch_length or 1) // self.most)
        if engine.state.iteration % step == 0:
            optimizer = getattr(engine, "optimizer", None)
            rate = None if optimizer is None else float(optimizer.param_groups[0]["lr"])
            output = engine.state.output
            terms = {f"loss_{name}": value for name, value in iteration_terms(output).items()}
            self._points.append((engine.state.iteration, rate, {"loss": iteration_loss(output), **terms}))

    def __call__(self, _engine: Engine) -> None:
        """Writes the points of the epoch."""
        if not self._points:
            return
        # One wait for the device in an epoch.
        losses = iter(torch.stack([value.float() for *_, kept in self._points for value in kept.values()]).tolist())
        for iteration, rate, kept in self._points:
            for name in kept:
                self.board.add_scalar(f"iteration/{name}", next(losses), iteration)
            if rate is not None:
                self.board.add_scalar("iteration/learning_rate", rate, iteration)
        self._points = []


class PictureBoardHandler:
    """Writes a slice of a validated case: image, label and prediction, side by side, as ``validation``.

    It is of the last case, where there is most label. Classes are shades of gray.

    Args:
        board: Writer of the events.
        trainer: Training engine, whose epoch is the step.
    """

    def __init__(self, board: MovableWriter, trainer: Engine) -> None:
        self.board, self.trainer = board, trainer

    def attach(self, engine: Engine) -> None:
        """Attaches to a validation engine whose output is cases with ``image``, ``label`` and ``pred``."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the picture, where there is one."""
        cases = engine.state.output
        case = cases[-1] if isinstance(cases, list) and cases else None
        if not isinstance(case, Mapping) or not {"image", "label", "pred"} <= case.keys():
            return
        with sparing("a picture for TensorBoard"):
            self.board.add_image("validation", side_by_side(case), self.trainer.state.epoch)


def side_by_side(case: Mapping[str, Any]) -> NDArray[np.float32]:
    """Returns image, label and prediction of a case beside one another.

    Args:
        case: ``image``, ``label`` and ``pred``, each ``(C, H, W[, D])``; channels of the latter two are classes.

    Returns:
        ``(1, H, 3 W)`` in [0, 1]; of a volume, the slice with most label.
    """
    image = torch.as_tensor(case["image"])[:1].detach().float()
    truth, found = (_classes(torch.as_tensor(case[key])) for key in ("label", "pred"))
    picture, labels = telling_slice(image, truth)
    low, high = float(picture.min()), float(picture.max())
    top = max(float(truth.max()), float(found.max()), 1.0)
    parts = [(picture - low) / max(high - low, 1e-6), labels / top, telling_slice(found, truth)[0] / top]
    return np.concatenate(parts, axis=1)[None].astype(np.float32)


def _classes(channels: torch.Tensor) -> torch.Tensor:
    """Number of the class of every voxel, ``(1, H, W[, D])``; of channels that overlap, the last."""
    inside = channels.detach().cpu() > 0.5
    numbers = torch.arange(1, len(inside) + 1).reshape(-1, *[1] * (inside.ndim - 1))
    classes = (inside * numbers).amax(dim=0, keepdim=True).float()
    # Where each voxel has a channel, the first one is background.
    return classes - 1 if len(inside) > 1 and bool(inside.any(dim=0).all()) else classes
