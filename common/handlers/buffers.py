"""Keeps one network on all processes, buffers included."""

from __future__ import annotations

import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from ..runtime.distributed import world_size


class BroadcastBuffers:
    """Gives every process the main one's buffers before a validation, or at another event.

    Distributed training keeps parameters equal but lets the running statistics of batch normalization differ between
    processes after every step; what is validated must be what the main process saves.

    Args:
        network: Network whose buffers are sent, without a data-parallel wrapper.
        event: Name of ignite's event at which they are sent. Default ``STARTED``.
    """

    def __init__(self, network: nn.Module, *, event: str = "STARTED") -> None:
        self.network, self.event = network, Events[event]

    def attach(self, engine: Engine) -> None:
        """Attaches to a validation engine, or to the one that has the event."""
        engine.add_event_handler(self.event, self)

    def __call__(self, _engine: Engine) -> None:
        """Sends or receives every buffer."""
        for buffer in self.network.buffers() if world_size() > 1 else ():
            dist.broadcast(buffer, 0)
