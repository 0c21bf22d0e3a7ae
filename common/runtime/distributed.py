"""Spreads a run over processes: its device, its rank, sums over all processes, and their waiting for one another."""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist
from torch import nn

logger = logging.getLogger(__name__)


def local_device() -> torch.device:
    """Returns the GPU of this process under ``torchrun``, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def distribute(
    network: nn.Module, device: str | torch.device, *, find_unused_parameters: bool = False
) -> nn.parallel.DistributedDataParallel:
    """Returns the network on this process's device, its gradients averaged over all processes.

    Args:
        network: Network whose copies the processes train.
        device: Device of this process.
        find_unused_parameters: Whether steps may leave out parts of the network, see torch; false by default.
    """
    place = torch.device(device)
    devices = [place] if is_cuda(place) else None
    return nn.parallel.DistributedDataParallel(
        network.to(place), device_ids=devices, find_unused_parameters=find_unused_parameters
    )


def is_cuda(device: str | torch.device) -> bool:
    """Returns whether a device, given as such or by name, is a GPU."""
    return torch.device(device).type == "cuda"


def process_rank() -> int:
    """Returns this process's rank, 0 without distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Returns whether this process is the one that writes."""
    return process_rank() == 0


def wait_for_all() -> None:
    """Returns when every process has come here, so that what the main process wrote before can be read by all."""
    if world_size() > 1:
        dist.barrier()


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Returns the sum of a value over all processes, the same on each."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def unwrap(network: nn.Module) -> nn.Module:
    """Returns the network inside ``DataParallel`` or ``DistributedDataParallel``, or the network itself."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return network.module if isinstance(network, parallel) else network
