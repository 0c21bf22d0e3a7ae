"""Measures how long a step of a network takes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM, TIMED = 1, 3
"""Steps that do not count, and those of which the shortest does."""


def seconds_per_step(
    network: nn.Module, batch_size: int, in_channels: int, window: Sequence[int], device: torch.device
) -> float:
    """Returns the seconds that a forward and a backward pass take, on random images.

    Args:
        network: Network; its gradients are lost, its weights stay.
        batch_size: Number of windows of a batch, at least 1.
        in_channels: Number of channels of an image.
        window: Size of a window, in voxels along each axis.
        device: Device of the training.
    """
    network = network.to(device).train()
    images = torch.randn(batch_size, in_channels, *window, device=device)
    seconds = []
    for _step in range(WARM + TIMED):
        start = time.perf_counter()
        total(network(images)).backward()
        network.zero_grad(set_to_none=True)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    # What else the machine does makes a step longer, never shorter.
    return min(seconds[WARM:])


def total(output: Any) -> Tensor:
    """Returns the sum of the means of all tensors that a network gives, in whatever collection.

    Args:
        output: Tensor, or a sequence or mapping of tensors.
    """
    if isinstance(output, Tensor):
        return output.float().mean()
    parts = output.values() if isinstance(output, Mapping) else output
    return torch.stack([total(part) for part in parts]).sum()


def memory_of(device: torch.device) -> float:
    """Returns the memory of a device, in GiB.

    Args:
        device: The CPU, or a CUDA device.
    """
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory) / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _wait(device: torch.device) -> None:
    """Waits for what a GPU has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
