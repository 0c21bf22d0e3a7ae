"""Finds the terms of a loss, and records them over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from ignite.engine import Engine

from .epochs import attach_mean


def iteration_terms(output: Any) -> dict[str, torch.Tensor]:
    """Returns the terms of the loss of an iteration, as they are on their device; none of a loss without terms.

    Args:
        output: Output of a trainer: a dictionary of ``loss`` and its terms, each a scalar, see
            :func:`~..engine.iteration.train_on_terms`. One of cases, as MONAI's own step returns it, has no terms.
    """
    if not isinstance(output, Mapping) or "pred" in output:
        return {}
    return {name: value for name, value in output.items() if name != "loss" and value.ndim == 0}


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
