"""Sums up an epoch's training before anything else follows the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from ignite.metrics.metric import MetricUsage


def ends_epoch(engine: Engine, iteration: int) -> bool:
    """Returns whether an iteration is the last of its epoch.

    Args:
        engine: The training engine.
        iteration: Number of the iteration, counted over all epochs from 1.
    """
    length = engine.state.epoch_length
    return bool(length) and iteration % length == 0


def total_iterations(engine: Engine) -> int:
    """Returns the number of iterations of a whole training, as the engine has it now.

    A federated client runs its engine round by round; the training is as long as its config says, or longer.

    Args:
        engine: The training engine, in an epoch.
    """
    epochs = max(engine.state.max_epochs or 1, getattr(engine, "planned_epochs", 0))
    return epochs * (engine.state.epoch_length or 1)


def attach_mean(engine: Engine, name: str, value: Callable[[Any], Any], device: str | torch.device) -> None:
    """Adds the mean of a value over the iterations of an epoch to the engine's metrics, after the last iteration.

    A checkpoint of the epoch's training can hold it then, since validation and all else comes later.

    Args:
        engine: The training engine.
        name: Name of the metric.
        value: Function that takes the output of an iteration and returns the value.
        device: Device on which the values are summed, so that no iteration waits for it.
    """
    iteration = Events.ITERATION_COMPLETED
    usage = MetricUsage(Events.EPOCH_STARTED, iteration(event_filter=ends_epoch), iteration)  # type: ignore[arg-type]
    Average(value, device=torch.device(device)).attach(engine, name, usage)
