"""Shows how far long work has come: as a bar on a terminal, as a few lines of the log everywhere else."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .distributed import is_main_process

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Clock = Callable[[], float]

REDRAW_SECONDS = 1.0
"""Least time between two pictures of a bar; what it shows, such as a loss on a GPU, is read no more often."""
LINE_SECONDS = 30.0
"""Least time between two lines of the log on the same work."""

_image: ContextVar[str] = ContextVar("image", default="an image")


@contextmanager
def image_called(name: str) -> Iterator[None]:
    """Lets progress within one image tell its name.

    Args:
        name: Name of the case.
    """
    token = _image.set(name)
    try:
        yield
    finally:
        _image.reset(token)


def image_name() -> str:
    """Returns the name of the image that is in work; ``an image`` where nobody told."""
    return _image.get()


class Pace:
    """Tells rate and time left from what this process has done.

    Args:
        total: Number of all that is to be done, at least 0.
        done: Number of what was done before this process began; it tells nothing of the rate. Default 0.
        clock: Function that returns the time in seconds. Default the monotonic one.

    Example:
        >>> seconds = [0.0]
        >>> pace = Pace(100, done=50, clock=lambda: seconds[0])
        >>> seconds[0], pace.done = 10.0, 70
        >>> pace.rate, pace.left
        (2.0, 15.0)
    """

    def __init__(self, total: int, *, done: int = 0, clock: Clock = time.monotonic) -> None:
        self.total, self.before, self.done, self.clock = total, done, done, clock
        self.start = clock()

    @property
    def seconds(self) -> float:
        """Time since the start, in seconds."""
        return self.clock() - self.start

    @property
    def rate(self) -> float:
        """How much this process does in a second; NaN before anything is done."""
        done, seconds = self.done - self.before, self.seconds
        return done / seconds if done > 0 and seconds > 0 else math.nan

    @property
    def left(self) -> float:
        """Time that the rest will take at this rate, in seconds; NaN before anything is done."""
        return (self.total - self.done) / self.rate


def rate_text(rate: float, unit: str) -> str:
    """Returns a rate in three digits or fewer; nothing where it is not known.

    Args:
        rate: Number of things in a second, or NaN.
        unit: Name of the things, in the plural.

    Example:
        >>> rate_text(123.4, "images"), rate_text(8.26, "images"), rate_text(0.0123, "images")
        ('123 images/s', '8.3 images/s', '0.012 images/s')
    """
    if math.isnan(rate):
        return ""
    return (
        f"{rate:.{0 if rate >= 99.5 else 1 if rate >= 1 else 2}f} {unit}/s" if rate >= 0.1 else f"{rate:.2g} {unit}/s"
    )


def time_text(seconds: float) -> str:
    """Returns a time as hours, minutes and seconds; a question mark where it is not known.

    Args:
        seconds: Time in seconds, or NaN.

    Example:
        >>> time_text(750.4), time_text(float("nan"))
        ('0:12:30', '?')
    """
    return "?" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))


def listed(*parts: str) -> str:
    """Returns the parts that are not empty, with commas between them."""
    return ", ".join(part for part in parts if part)


def has_terminal() -> bool:
    """Returns whether a bar may be drawn: on a terminal that can, by the main thread of the main process alone."""
    if os.environ.get("TERM") == "dumb" or sys.stderr is None or not sys.stderr.isatty():
        return False
    alone = multiprocessing.parent_process() is None and threading.current_thread() is threading.main_thread()
    return alone and is_main_process()


class _Bar(tqdm):
    """The bar of ``tqdm`` without its thread and its lock of processes: one thread of one process draws."""

    monitor_interval = 0
    _lock = threading.RLock()


class Bar:
    """A bar on the terminal, which lines of the log pass without tearing; nothing where there is no terminal.

    Args:
        total: Number of all that is to be done.
        title: Words before the bar.
        done: Number of what is done already. Default 0.
        clock: Function that returns the time in seconds. Default the monotonic one.
    """

    def __init__(self, total: int, title: str, *, done: int = 0, clock: Clock = time.monotonic) -> None:
        self.clock, self._opened = clock, ExitStack()
        self._bar: Any = None
        if has_terminal():
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
            settings: dict[str, Any] = {"bar_format": layout, "leave": False, "dynamic_ncols": True}
            self._bar = _Bar(total=total, initial=done, desc=title, file=sys.stderr, **settings)
            self._opened.enter_context(logging_redirect_tqdm(_console_loggers(), _Bar))
        self._drawn = clock()

    @property
    def visible(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    @property
    def is_due(self) -> bool:
        """Whether the bar shall be drawn anew: there is one, and :data:`REDRAW_SECONDS` have passed since the last."""
        return self.visible and self.clock() - self._drawn >= REDRAW_SECONDS

    def draw(self, done: int, text: str, title: str | None = None) -> None:
        """Draws the bar.

        Args:
            done: Number of what is done.
            text: Words behind the bar.
            title: Words before the bar; by default those that are there.
        """
        if self.visible:
            self._bar.n = done
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.set_description_str(title or self._bar.desc, refresh=False)
            self._bar.refresh()
            self._drawn = self.clock()

    def close(self, *, keep: bool = False) -> None:
        """Ends the bar and leaves the terminal at the beginning of a line.

        Args:
            keep: Whether the bar stays to be seen, as after an interruption; else its line is wiped. Default false.
        """
        if self.visible:
            self._bar.leave = keep
            self._bar.close()
            self._bar = None
        self._opened.close()


def _console_loggers() -> list[logging.Logger]:
    """Loggers that write to the terminal; MONAI gives several of its own a handler each."""
    console = (sys.stdout, sys.stderr)
    known = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    return [
        item
        for item in known
        if isinstance(item, logging.Logger)
        and any(isinstance(handler, logging.StreamHandler) and handler.stream in console for handler in item.handlers)
    ]


class Progress:
    """Shows how far a loop has come, and tells at its end how long it took.

    On a terminal it is a bar, elsewhere a line of the log every 30 seconds at most; in both cases there is a last line.
    After an error there is none, and the bar stays.

    Args:
        what: Name of the work.
        total: Number of all that is to be done, at least 0.
        unit: Name of what is counted, in the plural.
        part: Whether it is part of other work, which has the bar and the last line: only lines in between are written.
            Default false.
        clock: Function that returns the time in seconds. Default the monotonic one.

    Example:
        >>> with Progress("squares", 3, "numbers") as progress:
        ...     squares = [number**2 for number in progress.over([1, 2, 3])]
    """

    def __init__(self, what: str, total: int, unit: str, *, part: bool = False, clock: Clock = time.monotonic) -> None:
        self.what, self.unit, self.part, self.clock = what, unit, part, clock
        self.pace = Pace(total, clock=clock)
        self._bar: Bar | None = None
        self._note, self._told = "", clock()

    def __enter__(self) -> Self:
        self.pace = Pace(self.pace.total, clock=self.clock)
        self._told = self.clock()
        if not self.part:
            self._bar = Bar(self.pace.total, self.what, clock=self.clock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is None:
            return
        self._bar.close(keep=kind is not None)
        if kind is None:
            logger.info("%s", listed(f"{self._counted()} in {time_text(self.pace.seconds)}", self._note))

    def advance(self, number: int = 1, *, note: str = "", passed_over: bool = False) -> None:
        """Counts what is done.

        Args:
            number: Number of what was done since the last time. Default 1.
            note: Words on what was found so far. Default none.
            passed_over: Whether it needed no work, and tells nothing of the rate. Default false.
        """
        self.pace.done += number
        self.pace.before += number if passed_over else 0
        self._note = note
        bar = self._bar
        if bar is not None and bar.visible:
            if bar.is_due:
                bar.draw(self.pace.done, self._text())
        elif self.clock() - self._told >= LINE_SECONDS and self.pace.done < self.pace.total:
            self._told = self.clock()
            logger.info("%s", listed(self._counted(), self._text()))

    def over(self, items: Iterable[Item], size: Callable[[Item], int] = lambda _item: 1) -> Iterator[Item]:
        """Gives items one after the other, and counts each when the next one is asked for.

        Args:
            items: Items of any kind.
            size: Function that tells how much an item counts. Default 1 each.
        """
        for item in items:
            yield item
            self.advance(size(item))

    def _counted(self) -> str:
        return f"{self.what}: {self.pace.done} of {self.pace.total} {self.unit}"

    def _text(self) -> str:
        return listed(self._note, rate_text(self.pace.rate, self.unit), f"{time_text(self.pace.left)} left")
