"""Spares a run the failures of what it can do without: pictures and lines of a log."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec

from .reasons import error_line

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")


@contextmanager
def sparing(what: str) -> Iterator[None]:
    """Turns whatever fails in the block into a warning of one line; also a decorator of a function.

    For pictures, TensorBoard events and lines of a log alone: results that are missing must stop a run.

    Args:
        what: Name of what is missing afterwards, for the warning, such as that of a file.

    Example:
        >>> with sparing("gallery.png"):
        ...     raise OSError("disk full")
        >>> sparing("gallery.png")(len)([1, 2])
        2
    """
    try:
        yield
    except Exception as error:  # whatever a library for pictures or a full disk may raise
        logger.debug("left out", exc_info=True)
        logger.warning("%s could not be made (%s); the run goes on without", what, error_line(error))


def spared_picture(draw: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Returns a function that draws, after which a picture that could not be drawn is missing, with a warning.

    Args:
        draw: Function with an argument ``path``, the file of the picture.
    """
    signature = inspect.signature(draw)

    @functools.wraps(draw)
    def attempt(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        path = signature.bind(*args, **kwargs).arguments["path"]
        with sparing(Path(path).name):
            draw(*args, **kwargs)

    return attempt
