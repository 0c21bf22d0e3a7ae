"""Runs one iteration of a training whose loss is a sum of named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from ..runtime.distributed import process_rank
from ..runtime.seeds import step_generator

Terms = dict[str, Tensor]

STREAM = 2
"""Stream of the draws of an iteration; 0 and 1 are those of changes of a batch."""


def generator_of_step(engine: Any, seed: int) -> torch.Generator:
    """Returns the generator of an iteration, so that a resumed training draws what an uninterrupted one would.

    Args:
        engine: Trainer, whose state tells epoch and iteration.
        seed: Seed of the draws, at least 0.
    """
    return step_generator(seed, engine.state.epoch, engine.state.iteration, process_rank(), STREAM)


def train_on_terms(
    engine: Any,
    batchdata: Mapping[str, Tensor],
    losses: Callable[[nn.Module, Mapping[str, Tensor]], Terms],
) -> Terms:
    """Trains on one batch, as the ``iteration_update`` of MONAI's ``SupervisedTrainer`` does, without a host wait.

    While ``LOSS_COMPLETED`` is handled, ``engine.state.terms`` holds the terms with their graph.

    Args:
        engine: MONAI's trainer, which holds network, optimizer and device. Where it ``autocasts``, as ours may, it
            computes in bfloat16 what is safe.
        batchdata: Tensors of the batch by their names, on any device.
        losses: Function of the network, in training mode, and the batch on its device. It returns the terms of the
            loss, each a scalar.

    Returns:
        ``loss``, the sum, and its terms, detached.
    """
    device = engine.state.device
    batch = {name: value.to(device, non_blocking=engine.non_blocking) for name, value in batchdata.items()}
    engine.network.train()
    engine.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=getattr(engine, "autocasts", False)):
        terms = losses(engine.network, batch)
    loss = torch.stack(list(terms.values())).sum()
    engine.state.output = {name: value.detach() for name, value in ({"loss": loss} | terms).items()}
    # For handlers that ask for the gradient of each; the graph must not outlive the step.
    engine.state.terms = terms
    engine.fire_event(IterationEvents.LOSS_COMPLETED)
    engine.state.terms = {}
    loss.backward()
    engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
    engine.optimizer.step()
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output
