"""Escapes what a run logs, so that no name of a file can forge a line or steer the terminal that shows it."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from ..errors import escaped

CHATTY = {"ignite": logging.WARNING, "monai.data.nvimgcodec_pydicom_plugin": logging.ERROR}
"""Logger -> least level of what it may tell: a line for every run of an engine, and for every reader that is made."""


class PrintableRecord(logging.LogRecord):
    """A record whose message is one line that a terminal shows as it is, see :func:`common.errors.escaped`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info:
            # Formatters take a traceback from here before they make one of their own.
            self.exc_text = escaped_lines(logging.Formatter().formatException(self.exc_info))  # type: ignore[arg-type]

    def getMessage(self) -> str:
        """Returns the message with its arguments, escaped."""
        return escaped(super().getMessage())


def escape_logs() -> None:
    """Makes every record of this process printable, whichever library logs it and whichever handler writes it."""
    logging.setLogRecordFactory(PrintableRecord)


def quiet_libraries() -> None:
    """Keeps libraries from hiding our lines behind theirs: on engines, decoders of DICOM and old arguments."""
    for name, level in CHATTY.items():
        logging.getLogger(name).setLevel(level)
    warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)
    # MONAI's surface metrics pass an argument that MONAI deprecated.
    warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)


def escaped_lines(text: str) -> str:
    """Returns a text of several lines, each as a terminal shows it.

    Args:
        text: Text of any number of lines, such as a traceback.
    """
    return "\n".join(escaped(line) for line in text.split("\n"))
