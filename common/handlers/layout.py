"""Lays out the batches of a training in memory as its network computes fastest."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm


class ChannelsLast:
    """Puts the channels of pictures last in memory, where that makes the steps of a network faster.

    Convolutions keep the layout of what they are given, so that of the images decides for all feature maps. Weights
    keep theirs, and files of weights stay what they are. Measured on a CPU: U-Nets with batch or group normalization
    take 0.7 to 0.9 of the time in 2-D. Instance normalization would copy every feature map, the gradient of group
    normalization is slow in bfloat16, and there is no gain in 3-D. On a GPU nothing is changed.

    Args:
        network: Network that is trained, perhaps in a data-parallel wrapper.
        device: Device that it runs on.
        amp: Whether it computes in bfloat16. Default false.
    """

    def __init__(self, network: nn.Module, device: str | torch.device, *, amp: bool = False) -> None:
        slow = (_InstanceNorm, nn.GroupNorm) if amp else (_InstanceNorm,)
        is_slow = any(isinstance(module, slow) for module in network.modules())
        self.is_used = torch.device(device).type == "cpu" and not is_slow

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, after the handlers that change its batches."""
        if self.is_used:
            engine.add_event_handler(Events.GET_BATCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replaces the batch of the engine's state; only pictures ``(B, C, H, W)`` of floating point are laid out."""
        state: Any = engine.state
        state.batch = {name: _lay_out(value) for name, value in state.batch.items()}


def _lay_out(value: Any) -> Any:
    """A picture's tensor with the channels last, and anything else as it is."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        return value
    # A copy: `contiguous` returns images of one channel as they are, since both layouts fit them.
    return value.clone(memory_format=torch.channels_last)
