"""Ends a run on Ctrl-C or SIGTERM with one line, never in the middle of what belongs together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupted(KeyboardInterrupt):
    """A signal asked this run to end.

    Not an ``Exception``: what takes a failed case for a row of a report must let it pass.

    Args:
        number: Number of the signal, of SIGINT or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        self.number, self.advice = number, ""
        super().__init__(number)

    def __str__(self) -> str:
        """One line: what happened and, where somebody has told in ``advice``, what to do."""
        return f"ended by {NAMES[signal.Signals(self.number)]}" + (f": {self.advice}" if self.advice else "")

    @property
    def status(self) -> int:
        """Exit status of the program, as shells count: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


class Interrupts:
    """The handler of both signals: raises :class:`Interrupted`, at once or when what is :meth:`held` is done."""

    def __init__(self) -> None:
        self._depth, self._waiting = 0, 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Takes a signal."""
        if self._depth:
            self._waiting = number
        else:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps a signal waiting until the block ends.

        Raises:
            Interrupted: After the block, where a signal came in the meantime.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._waiting and not self._depth:
            number, self._waiting = self._waiting, 0
            raise Interrupted(number)


def watch_signals() -> None:
    """Lets Ctrl-C and SIGTERM raise :class:`Interrupted`, unless whoever started this program has them ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    interrupts = Interrupts()
    for number in NAMES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupts)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps Ctrl-C and SIGTERM waiting while files that belong together are written; for short work.

    Raises:
        Interrupted: After the block, where a signal came in the meantime.
    """
    handlers = [signal.getsignal(number) for number in NAMES]
    interrupts = next((handler for handler in handlers if isinstance(handler, Interrupts)), None)
    # Handlers run in the main thread alone.
    if interrupts is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with interrupts.held():
        yield
