"""Keeps what every training needs of its course: history, learning rate, checkpoint and log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import LrScheduleHandler
from torch import nn
from torch.optim import Optimizer

from ..errors import ConfigError
from ..networks.averaging import EMANetwork
from ..runtime.weights import WeightsCheckpointLoader
from .averaging import AveragedWeights
from .checkpoint import BestWeights, TrainingCheckpoint
from .history import TrainingHistory
from .log import RunLog
from .times import TrainingTimes


class TrainingProgress:
    """Loads first weights, records every epoch, changes the learning rate, writes the checkpoint, logs: in this order.

    Args:
        output_dir: Folder of ``metrics.json``, ``times.csv``, ``training.png``, ``checkpoint.pt`` and TensorBoard
            events.
        evaluator: Validation engine, which is recorded and logged as well.
        network: Network that is trained, perhaps in a data-parallel wrapper.
        optimizer: Optimizer whose learning rate is recorded.
        schedule: A schedule that attaches itself, or one of torch, which is stepped after every epoch.
        best: Writes the best weights.
        initial_weights: File of weights that the network of ``best`` starts from. Default none.
        resume: Whether to go on from ``checkpoint.pt``. Default false.
        config: What the config parser has made so far, see :class:`TrainingCheckpoint`. Default nothing.
        averaged: Whether the average of the weights over the steps is validated and kept as the best, in place of the
            weights of the last step; ``best`` validates both and keeps the better. Default false.
        ema_decay: Largest decay of that average, in [0, 1]. Default 0.99.
        ema: Average that the training keeps anyway, of the network of ``best``. Default none.
        more: Name -> further objects whose state is part of the checkpoint; those that are ``None`` are left out.
            Default none.

    Raises:
        ConfigError: When ``averaged`` is neither true, false nor ``best``.
    """

    def __init__(
        self,
        output_dir: str,
        evaluator: Engine,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: Any,
        best: BestWeights,
        *,
        initial_weights: str | None = None,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        averaged: bool | str = False,
        ema_decay: float = 0.99,
        ema: EMANetwork | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        if averaged not in (True, False, "best"):
            raise ConfigError(f"averaged is {averaged!r}; accepted are true, false and best")
        self.evaluator, self.schedule, self.best = evaluator, schedule, best
        self.initial_weights = initial_weights
        self.history = TrainingHistory(output_dir, evaluator, optimizer)
        further = {name: member for name, member in (more or {}).items() if member is not None}
        members = {"network": network, "optimizer": optimizer, "schedule": schedule, **further}
        members |= {"best": best, "history": self.history}
        self.average: AveragedWeights | None = None
        if averaged:
            own = EMANetwork(best.network, ema_decay=ema_decay) if ema is None else ema
            kind = {"update": ema is None, "compare": averaged == "best"}
            self.average = AveragedWeights(best.network, evaluator, own, **kind)
            members |= {"average": self.average}
        file = str(Path(output_dir, "checkpoint.pt"))
        self.checkpoint = TrainingCheckpoint(file, members, resume=resume, config=config)
        self.log = RunLog(output_dir, evaluator)

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handler that validates."""
        if self.initial_weights is not None:
            network = self.best.network
            device = next(network.parameters()).device
            WeightsCheckpointLoader(self.initial_weights, network, device).attach(engine)
        if self.average is not None:
            self.average.attach(engine)
        self.history.attach(engine)
        TrainingTimes(self.history).attach(engine)
        if hasattr(self.schedule, "attach"):
            self.schedule.attach(engine)
        else:
            LrScheduleHandler(self.schedule, print_lr=False).attach(engine)
        self.checkpoint.attach(engine)
        self.log.attach(engine)
