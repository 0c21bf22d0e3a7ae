"""Lets the average of the weights be validated and kept, in place of the weights of the last step."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..networks.averaging import EMANetwork
from .buffers import BroadcastBuffers

AVERAGE, STUDENTS = "_average", "_students"
"""Ends of the names of metrics where both are validated."""


class AveragedWeights:
    """Puts the average of a network's weights into it while it is validated and its best weights are written.

    Polyak and Juditsky, SIAM J. Control and Optimization 30(4), 1992; as an exponential moving average in Tarvainen and
    Valpola, NeurIPS 2017. The training itself goes on with the weights of its last step.

    With ``compare``, these are validated as well, and what keeps the best weights keeps the better ones. Metrics of the
    two end with ``_average`` and ``_students``; without an ending they are those of the better by the key metric.

    Args:
        network: Network that is validated and saved, without a data-parallel wrapper.
        evaluator: Validation engine; what writes the best weights is attached to it already.
        ema: Average, perhaps one that the training keeps anyway.
        update: Whether the average is moved after every iteration here; false where the training does so. Default true.
        compare: Whether the weights of the last step are validated after the average. Default false.
    """

    def __init__(
        self, network: nn.Module, evaluator: Engine, ema: EMANetwork, *, update: bool = True, compare: bool = False
    ) -> None:
        self.network, self.evaluator, self.ema, self.update = network, evaluator, ema, update
        self.compare = compare
        self._kept: list[Tensor] = []
        self._turn, self._validated = AVERAGE, False

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handler that validates and before the checkpoint of its epochs."""
        if self.update:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._move)
        self.evaluator.add_event_handler(Events.STARTED, self.take)
        self.evaluator.add_event_handler(Events.COMPLETED, self.give_back)
        self.evaluator.add_event_handler(Events.EXCEPTION_RAISED, self._give_back_and_raise)
        if self.compare:
            self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._name_metrics)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate_students)

    def _name_metrics(self, evaluator: Engine) -> None:
        """Says whose the metrics of a validation are."""
        metrics, self._validated = evaluator.state.metrics, True
        plain = {name: value for name, value in metrics.items() if not name.endswith((AVERAGE, STUDENTS))}
        metrics |= {f"{name}{self._turn}": value for name, value in plain.items()}

    def _validate_students(self, engine: Engine) -> None:
        """Validates the weights of the last step, where the average was validated; keeps the better metrics."""
        if not self._validated:
            return
        self._turn = STUDENTS
        try:
            self.evaluator.run(engine.state.epoch)
        finally:
            self._turn, self._validated = AVERAGE, False
        state: Any = self.evaluator.state
        average, students = (float(state.metrics[f"{state.key_metric_name}{end}"]) for end in (AVERAGE, STUDENTS))
        # Not a number is never the better.
        better = STUDENTS if students > average or math.isnan(average) else AVERAGE
        named = [name for name in state.metrics if name.endswith(better)]
        state.metrics |= {name.removesuffix(better): state.metrics[name] for name in named}

    def _move(self, _engine: Engine) -> None:
        self.ema.update_parameters(self.network)

    @torch.no_grad()
    def take(self, _engine: Engine | None = None) -> None:
        """Puts the average into the network; every process has the same one."""
        if self._turn == STUDENTS or not int(self.ema.n_averaged):
            return
        BroadcastBuffers(self.ema.module)(self.evaluator)
        self._kept = [value.detach().clone() for value in self._values(self.network)]
        self._set(self._values(self.ema.module))

    @torch.no_grad()
    def give_back(self, _engine: Engine | None = None) -> None:
        """Puts the weights of the last step into the network again."""
        self._set(self._kept)
        self._kept = []

    def _give_back_and_raise(self, _engine: Engine, error: BaseException) -> None:
        self.give_back()
        raise error

    def _set(self, values: list[Tensor]) -> None:
        for own, value in zip(self._values(self.network) if values else [], values, strict=True):
            own.copy_(value)

    @staticmethod
    def _values(network: nn.Module) -> list[Tensor]:
        return [*network.parameters(), *network.buffers()]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the average."""
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.ema.load_state_dict(state)
