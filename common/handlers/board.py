"""TensorBoard events of a run that trains several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class MovableWriter:
    """A ``SummaryWriter`` that is made when it is first written to, and may go on in another folder.

    Args:
        log_dir: folder of the events.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self._writer: SummaryWriter | None = None

    def move(self, log_dir: str | Path) -> None:
        """Writes to another folder from now on."""
        self.close()
        self.log_dir = str(log_dir)

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Writes a number, see ``SummaryWriter``."""
        if self._writer is None:
            self._writer = SummaryWriter(self.log_dir)
        self._writer.add_scalar(*args, **kwargs)

    def flush(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
