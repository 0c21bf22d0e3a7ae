"""Draws random numbers on the CPU and sends them to the device on which they are wanted."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Returns numbers from [0, 1), float64; those of a generator on the CPU are sent on without waiting.

    Args:
        shape: Shape of the numbers.
        device: Device that they are wanted on.
        generator: Generator of the draw; ``None`` for torch's own.
    """
    source = device if generator is None else generator.device
    numbers = torch.rand(shape, dtype=torch.float64, device=source, generator=generator)
    if source.type == device.type:
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)
