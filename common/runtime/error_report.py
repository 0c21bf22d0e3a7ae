"""Reports what ends a run, in one line where it is an error of ours; imports nothing that takes long."""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import worker  # type: ignore[attr-defined]
from traceback import format_exception
from types import TracebackType

from ..errors import one_line
from .logs import escaped_lines
from .reasons import find_bundle_error, find_interruption

LONGEST_WAIT = 20.0
"""Seconds that the end of a failed run waits for threads that still read scans."""


def report_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints one line for an error of ours or an interruption, and the whole traceback for any other.

    The exit status is 1, after Ctrl-C 130 and after SIGTERM 143. With the environment variable ``BUNDLE_TRACEBACK``
    set, the traceback is printed for every error.

    Raises:
        SystemExit: After an interruption, whose exit status Python would not know.
    """
    interruption = find_interruption(error)
    if interruption is not None:
        # Takes seconds to import, which a mistyped option shall not cost.
        from .distributed import is_main_process

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
