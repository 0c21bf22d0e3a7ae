"""Forgets the best weights between the two steps of a training."""

from __future__ import annotations

from ignite.engine import Engine, Events

from ..handlers import BestWeights


class StepChange:
    """Forgets the best weights when the decoder's training begins: until then it has learned nothing.

    Args:
        best: Handler that keeps the best weights of the validation.
        pretrain_epochs: Number of epochs of the first step; with 0, nothing is done.
    """

    def __init__(self, best: BestWeights, pretrain_epochs: int) -> None:
        self.best, self.pretrain_epochs = best, pretrain_epochs

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine."""
        if self.pretrain_epochs:
            engine.add_event_handler(Events.EPOCH_STARTED(once=self.pretrain_epochs + 1), self)

    def __call__(self, _engine: Engine) -> None:
        """Forgets."""
        self.best.load_state_dict({"best": 0.0, "digest": ""})
