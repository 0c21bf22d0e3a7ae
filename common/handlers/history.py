"""Records the course of a training run as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..figures import draw_history
from ..runtime.distributed import is_main_process
from ..runtime.files import write_json
from .epochs import attach_mean
from .schedule import iteration_loss


class TrainingHistory:
    """Records loss, learning rate and validation metric of every epoch; writes ``metrics.json`` and ``training.png``.

    Gradient norms of the terms of the loss are part of both, where :class:`~.balance.GradientBalance` adds them.

    Args:
        output_dir: Folder of both files.
        evaluator: Validation engine, whose key metric is recorded when it ran in the epoch.
        optimizer: Optimizer whose learning rate is recorded, that of its first group of parameters.
    """

    def __init__(self, output_dir: str, evaluator: Engine, optimizer: Any) -> None:
        self.output_dir, self.evaluator, self.optimizer = Path(output_dir), evaluator, optimizer
        self.epochs: list[dict[str, float]] = []
        self.gradient_norms: list[dict[str, float]] = []
        self._validations = 0

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handler that validates and before the one that changes the rate.

        Adds the mean loss of the training to the engine's metrics.
        """
        # Summed on the device: no iteration waits for it.
        device = self.optimizer.param_groups[0]["params"][0].device
        attach_mean(engine, "train_loss", iteration_loss, device)
        self.evaluator.add_event_handler(Events.COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def _count(self, _engine: Engine) -> None:
        self._validations += 1

    def __call__(self, engine: Engine) -> None:
        """Records the epoch."""
        metrics = {name: float(value) for name, value in engine.state.metrics.items()}
        if self._validations:
            metrics |= {name: float(value) for name, value in self.evaluator.state.metrics.items()}
            self._validations = 0
        rate = float(self.optimizer.param_groups[0]["lr"])
        counts = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        self.epochs.append(counts | {"learning_rate": rate} | metrics)

    def write(self, _engine: Engine) -> None:
        """Writes numbers and picture, on the main process only."""
        if not is_main_process() or not self.epochs:
            return
        name = str(getattr(self.evaluator.state, "key_metric_name", ""))
        validated = [epoch for epoch in self.epochs if name in epoch]
        best = max(validated, key=lambda epoch: epoch[name]) if validated else None
        measured = {"gradient_norms": self.gradient_norms} if self.gradient_norms else {}
        write_json({"best": best, "epochs": self.epochs} | measured, self.output_dir / "metrics.json")
        draw_history(self.epochs, name, self.output_dir / "training.png", gradient_norms=self.gradient_norms)

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded epochs and gradient norms."""
        return {"epochs": self.epochs, "gradient_norms": self.gradient_norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.epochs = list(state["epochs"])
        # A checkpoint from before they were measured has none.
        self.gradient_norms = list(state.get("gradient_norms", ()))
