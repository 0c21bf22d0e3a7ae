"""Writes TensorBoard events of a run, which goes on where they cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.handlers import TensorBoardStatsHandler
from torch.utils.tensorboard import SummaryWriter

from ..runtime.sparing import sparing


class MovableWriter:
    """A ``SummaryWriter`` that is made when it is first written to, and may go on in another folder.

    What cannot be written is a warning; nothing more is written to that folder then.

    Args:
        output_dir: Folder of the events.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir
        self._writer: SummaryWriter | None = None
        self._failed = False

    def move(self, output_dir: str | Path) -> None:
        """Writes to another folder from now on."""
        self.close()
        self.output_dir, self._failed = str(output_dir), False

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Writes a number, see ``SummaryWriter``."""
        self._write("add_scalar", *args, **kwargs)

    def flush(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            self._write("flush")

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._writer is not None:
            self._write("close")
            self._writer = None

    def _write(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Calls a method of the writer, which is made where there is none."""
        if self._failed:
            return
        self._failed = True
        with sparing(f"TensorBoard events in {self.output_dir}"):
            if self._writer is None:
                self._writer = SummaryWriter(self.output_dir)
            getattr(self._writer, method)(*args, **kwargs)
            self._failed = False


class EpochBoardHandler(TensorBoardStatsHandler):
    """MONAI's ``TensorBoardStatsHandler`` for the metrics of every epoch.

    Args:
        board: Writer of the events; several handlers may share one.
    """

    def __init__(self, board: MovableWriter) -> None:
        super().__init__(summary_writer=board, iteration_log=False)
