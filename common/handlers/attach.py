"""Gives a handler that other components refer to by name its place in a list of handlers."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine


class Attach:
    """Attaches a named handler to the engine.

    MONAI Label reads ``train#handlers`` and needs every entry to be an object of its own, not a reference.

    Args:
        handler: Handler with a method ``attach``.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Attaches the handler."""
        self.handler.attach(engine)
