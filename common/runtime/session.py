"""Starts and ends a run of the command line: determinism, readable errors, checked options, process groups."""

from __future__ import annotations

import logging
import sys

import torch
import torch.distributed as dist
from monai.utils import set_determinism

from .distributed import is_cuda, is_main_process
from .error_report import report_error
from .interrupts import watch_signals
from .logs import escape_logs, quiet_libraries
from .options import check_options


def start_session(seed: int, *, distributed: bool = False, device: str | torch.device = "cpu") -> None:
    """Makes a run reproducible, its errors and its log readable and its options checked.

    Args:
        seed: Seed of every random number generator; the same seed gives the same draws.
        distributed: Whether to join the process group that ``torchrun`` describes; false by default.
        device: Device of this process, which decides how processes talk to one another; the CPU by default.

    Raises:
        ConfigError: When the command line sets a key that no config file has.
    """
    sys.excepthook = report_error
    watch_signals()
    escape_logs()
    quiet_libraries()
    check_options(sys.argv[1:])
    if distributed and not dist.is_initialized():
        if is_cuda(device):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if is_cuda(device) and dist.is_nccl_available() else "gloo")
        if not is_main_process():
            logging.getLogger().setLevel(logging.WARNING)
    set_determinism(seed=seed)


def end_session() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
