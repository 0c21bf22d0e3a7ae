"""A terminal and a clock for tests of progress."""

import fcntl
import logging
import os
import struct
import termios
from contextlib import nullcontext, redirect_stderr
from types import SimpleNamespace

import pytest


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal of 100 columns, which shows the log as well.

    ``written()`` is all that came, ``seen()`` the lines that a user is left with.
    """
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    os.set_blocking(master, False)
    parts = []

    def written():
        try:
            while part := os.read(master, 65536):
                parts.append(part)
        except BlockingIOError:
            return b"".join(parts).decode()

    root = logging.getLogger()
    with os.fdopen(slave, "w", encoding="utf-8", buffering=1) as stream:
        monkeypatch.setenv("TERM", "xterm")
        handler = logging.StreamHandler(stream)
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        # As a session does.
        logging.getLogger("ignite").setLevel(logging.WARNING)
        yield SimpleNamespace(written=written, seen=lambda: screen(written()), handler=handler, stream=stream)
        root.removeHandler(handler)
    os.close(master)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """Puts the terminal in place after pytest has put its own capture there, which it does before every phase."""
    place = item.funcargs.get("terminal")
    with redirect_stderr(place.stream) if place else nullcontext():
        return (yield)


def screen(written):
    """The lines that a terminal shows after all that was written."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines
