"""Starts and ends a run of the command line: determinism, readable errors, checked options, process groups."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType

import torch
import torch.distributed as dist
from monai.utils import set_determinism

from ..errors import BundleError, one_line
from .distributed import is_cuda, is_main_process
from .options import check_options


def start_session(seed: int, *, distributed: bool = False, device: str | torch.device = "cpu") -> None:
    """Makes a run reproducible, its errors readable and its options checked.

    Args:
        seed: of every random number generator.
        distributed: whether to join the process group that ``torchrun`` describes.
        device: of this process, which decides how processes talk to one another.

    Raises:
        ConfigError: when the command line sets a key that no config file has.
    """
    sys.excepthook = report_error
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


def find_bundle_error(error: BaseException | None) -> BundleError | None:
    """Returns the first error of ours in a chain of exceptions; MONAI wraps errors in its own."""
    while error is not None:
        if isinstance(error, BundleError):
            return error
        error = error.__cause__ or error.__context__
    return None


def error_line(error: BaseException) -> str:
    """Returns one line that tells what went wrong: our own message, or else the innermost error's."""
    own = find_bundle_error(error)
    while own is None and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = str(own) if own is not None else f"{type(error).__name__}: {error}"
    return one_line(text)


def report_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints one line for an error of ours and the whole traceback for any other; the exit status is 1 either way.

    With the environment variable ``BUNDLE_TRACEBACK`` set, the traceback is printed for every error.
    """
    own = find_bundle_error(error)
    if own is None or os.environ.get("BUNDLE_TRACEBACK"):
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.stderr.write(f"error: {one_line(str(own))}\n")
