"""Measures what a detector costs: seconds and megabytes beyond what was held before."""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files in which Linux tells, and lets a process reset, the most memory that it has held."""


def measure_cost(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Returns the seconds and the megabytes that a piece of work takes.

    Megabytes are the most that is held at a time, less what was held before: of the device on CUDA, of the process on
    Linux.

    Args:
        work: Function without arguments.
        device: Device that it works on.

    Returns:
        Seconds and megabytes; NaN for megabytes where the system does not tell.
    """
    cuda = device.type == "cuda"
    # Young objects alone: what the pass before left. A search of all takes longer than many a measure.
    gc.collect(1)
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device) / 2**20
    else:
        held = _reset_peak()
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else _megabytes("VmHWM")
    return seconds, float(np.maximum(peak - held, 0.0))


def _reset_peak() -> float:
    """Gives free memory back, sets the recorded peak to what is held now and returns that, in megabytes."""
    try:
        # What the allocator keeps for later would hide what the work takes; libraries other than glibc lack this.
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return math.nan
    return _megabytes("VmRSS")


def _megabytes(name: str) -> float:
    """What Linux tells of the memory of this process."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return math.nan
    return int(found[1]) / 1024 if found else math.nan
