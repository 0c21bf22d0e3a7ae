"""Starts and ends a run of the command line: determinism, readable errors, checked options, process groups."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import worker  # type: ignore[attr-defined]
from traceback import format_exception
from types import TracebackType

import torch
import torch.distributed as dist
from monai.utils import set_determinism

from ..errors import one_line
from .distributed import is_cuda, is_main_process
from .interrupts import watch_signals
from .logs import escape_logs, escaped_lines, quiet_libraries
from .options import check_options
from .reasons import find_bundle_error, find_interruption

LONGEST_WAIT = 20.0
"""Seconds that the end of a failed run waits for threads that still read scans."""


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


def report_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints one line for an error of ours or an interruption, and the whole traceback for any other.

    The exit status is 1, after Ctrl-C 130 and after SIGTERM 143. With the environment variable ``BUNDLE_TRACEBACK``
    set, the traceback is printed for every error.

    Raises:
        SystemExit: After an interruption, whose exit status Python would not know.
    """
    interruption = find_interruption(error)
    if interruption is not None:
        if is_main_process():
            sys.stderr.write(f"{one_line(str(interruption))}\n")
        _wait_for_workers(LONGEST_WAIT)
        raise SystemExit(interruption.status)
    own = find_bundle_error(error)
    if own is None or os.environ.get("BUNDLE_TRACEBACK"):
        sys.stderr.write(escaped_lines("".join(format_exception(kind, error, traceback))))
    else:
        sys.stderr.write(f"error: {one_line(str(own))}\n")
    _wait_for_workers(LONGEST_WAIT)


def _wait_for_workers(seconds: float) -> None:
    """Waits for threads of pools that an error has left at work: Python's end would abort the process within them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(_is_busy, threading.enumerate())):
        time.sleep(0.05)


def _is_busy(thread: threading.Thread) -> bool:
    """Whether a thread is one of a pool that does more than wait for work."""
    if not isinstance(thread, DummyProcess) or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code is not worker.__code__
