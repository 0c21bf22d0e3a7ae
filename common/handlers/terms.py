"""Records the terms of a loss over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import torch
from ignite.engine import Engine

from .epochs import attach_mean


class LossTerms:
    """Adds the mean of every term of the loss to the metrics of an epoch, as ``loss_<term>``.

    Handlers attached later (TensorBoard, the history) find them.

    Args:
        terms: Names of the terms in the output of an iteration.
        device: Device on which they are summed, so that no iteration waits for it.
    """

    def __init__(self, terms: Sequence[str], device: str | torch.device) -> None:
        self.terms, self.device = tuple(terms), torch.device(device)

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, before the handlers that record or write its metrics."""
        for term in self.terms:
            attach_mean(engine, f"loss_{term}", itemgetter(term), self.device)
