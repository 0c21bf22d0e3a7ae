"""Lets the average of the weights be validated and kept, in place of the weights of the last step."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..networks.averaging import EMANetwork
from .buffers import BroadcastBuffers


class AveragedWeights:
    """Puts the average of a network's weights into it while it is validated and its best weights are written.

    Polyak and Juditsky, SIAM J. Control and Optimization 30(4), 1992; as an exponential moving average in Tarvainen and
    Valpola, NeurIPS 2017. The training itself goes on with the weights of its last step.

    Args:
        network: Network that is validated and saved, without a data-parallel wrapper.
        evaluator: Validation engine; what writes the best weights is attached to it already.
        ema: Average, perhaps one that the training keeps anyway.
        update: Whether the average is moved after every iteration here; false where the training does so. Default true.
    """

    def __init__(self, network: nn.Module, evaluator: Engine, ema: EMANetwork, *, update: bool = True) -> None:
        self.network, self.evaluator, self.ema, self.update = network, evaluator, ema, update
        self._kept: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, before the checkpoint of its epochs."""
        if self.update:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._move)
        self.evaluator.add_event_handler(Events.STARTED, self.take)
        self.evaluator.add_event_handler(Events.COMPLETED, self.give_back)
        self.evaluator.add_event_handler(Events.EXCEPTION_RAISED, self._give_back_and_raise)

    def _move(self, _engine: Engine) -> None:
        self.ema.update_parameters(self.network)

    @torch.no_grad()
    def take(self, _engine: Engine | None = None) -> None:
        """Puts the average into the network; every process has the same one."""
        if not int(self.ema.n_averaged):
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
