"""Averages a network over the steps of its training."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..runtime.distributed import unwrap


class EMANetwork(AveragedModel):
    """Exponential moving average of a network, with a decay of ``min(ema_decay, 1 - 1 / (t + 1))`` in step t from 1.

    Torch's ``update_parameters`` sends its count of steps to the device, which waits; this one keeps it on the host.
    Buffers are copied. The average predicts in evaluation mode, and its first update is a copy.

    Args:
        network: Network that is averaged; a data-parallel wrapper around it is left out.
        ema_decay: Largest decay of the average, from 0 to 1. Default 0.99, as in the source.
    """

    def __init__(self, network: nn.Module, *, ema_decay: float = 0.99) -> None:
        super().__init__(unwrap(network))
        self.ema_decay = ema_decay
        self.requires_grad_(False).eval()

    def decay(self) -> float:
        """Returns the decay of the next update; 0, a copy, for the first."""
        step = int(self.n_averaged) + 1
        return min(self.ema_decay, 1 - 1 / (step + 1)) if step > 1 else 0.0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average one step towards the network."""
        source = unwrap(model)
        own, current = list(self.module.parameters()), [value.detach() for value in source.parameters()]
        get_ema_multi_avg_fn(self.decay())(own, current, None)
        for copy, buffer in zip(self.module.buffers(), source.buffers(), strict=True):
            copy.copy_(buffer)
        self.n_averaged += 1
