"""Schedules the learning rate as the paper does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..runtime.distributed import world_size

logger = logging.getLogger(__name__)


def iteration_loss(output: Any) -> torch.Tensor:
    """Returns the loss of an iteration from a trainer's output, decollated or not, as a plain tensor on its device."""
    loss = (output[0] if isinstance(output, list) else output)["loss"].detach().mean()
    # Images with metadata make losses with metadata, which a checkpoint must not hold.
    return loss.as_subclass(torch.Tensor)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Returns the mean of a value over all processes, the same on each, so that all come to the same decision."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


class PlateauSchedule:
    """Multiplies the learning rate when the training loss has not fallen, and stops when it did not fall repeatedly.

    Karimi and Gholipour 2023, section III-B: the rate is multiplied by 0.9 when the loss has not fallen over 2000
    iterations; training stops after two such evaluations in a row. The loss is the mean over the iterations since the
    last evaluation, summed on the device, so that no iteration waits for it.

    Args:
        optimizer: Optimizer whose learning rate is changed.
        schedule_interval: Iterations between evaluations, at least 1. Default 2000, as in the paper.
        schedule_factor: Factor of the learning rate, below 1. Default 0.9, as in the paper.
        schedule_patience: Number of evaluations in a row without a lower loss after which training stops; 0 never stops
            it. Default 2, as in the paper.
        val_interval: Epochs between validations, at least 1; training stops after an epoch that is validated. Default
            1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        schedule_interval: int = 2000,
        schedule_factor: float = 0.9,
        schedule_patience: int = 2,
        val_interval: int = 1,
    ) -> None:
        self.scheduler = ReduceLROnPlateau(optimizer, factor=schedule_factor, patience=0, threshold=0.0)
        self.schedule_interval, self.schedule_patience, self.val_interval = (
            schedule_interval,
            schedule_patience,
            val_interval,
        )
        self.total: torch.Tensor | None = None
        self._bad_evaluations = 0

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.accumulate)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.schedule_interval), self)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.val_interval), self.stop)

    def accumulate(self, engine: Engine) -> None:
        """Adds the loss of the iteration."""
        loss = iteration_loss(engine.state.output)
        self.total = loss.clone() if self.total is None else self.total + loss

    def __call__(self, engine: Engine) -> None:
        """Evaluates the loss of the last ``schedule_interval`` iterations."""
        if self.total is None:
            return
        mean = float(mean_over_processes(self.total)) / self.schedule_interval
        self.total = None
        lowest, bad = self.scheduler.best, self._bad_evaluations
        self._bad_evaluations = 0 if mean < lowest else bad + 1
        self.scheduler.step(mean)
        rate = self.scheduler.optimizer.param_groups[0]["lr"]
        logger.info("iteration %d: mean loss %.4f, learning rate %.3g", engine.state.iteration, mean, rate)
        if self.schedule_patience and self._bad_evaluations >= self.schedule_patience:
            logger.info("the loss has not fallen in %d evaluations: training stops", self._bad_evaluations)

    def stop(self, engine: Engine) -> None:
        """Stops at the end of an epoch that is validated and saved."""
        if self.schedule_patience and self._bad_evaluations >= self.schedule_patience:
            engine.terminate()

    def state_dict(self) -> dict[str, Any]:
        """Returns the scheduler's state, the count of evaluations without a lower loss and the loss summed so far."""
        total = torch.zeros(()) if self.total is None else mean_over_processes(self.total).cpu()
        keep = ("best", "num_bad_epochs", "last_epoch")
        plateau = {name: float(getattr(self.scheduler, name)) for name in keep}
        return {"plateau": plateau, "bad_evaluations": self._bad_evaluations, "total": total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned; the learning rate is part of the optimizer's state."""
        plateau = state["plateau"]
        self.scheduler.best = plateau["best"]
        self.scheduler.num_bad_epochs = int(plateau["num_bad_epochs"])
        self.scheduler.last_epoch = int(plateau["last_epoch"])
        self._bad_evaluations = int(state["bad_evaluations"])
        device = self.scheduler.optimizer.param_groups[0]["params"][0].device
        self.total = state["total"].to(device)
