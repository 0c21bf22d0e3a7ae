"""Logs a run, as lines and as TensorBoard events."""

from __future__ import annotations

from ignite.engine import Engine
from monai.handlers import StatsHandler

from ..runtime.distributed import is_main_process
from .board import EpochBoardHandler, MovableWriter


class EpochStatsHandler(StatsHandler):
    """MONAI's ``StatsHandler`` for the metrics of every epoch.

    It leaves errors to the end of the program, which prints one line, where MONAI's logs the whole traceback first.
    """

    def __init__(self) -> None:
        super().__init__(iteration_log=False)

    def exception_raised(self, _engine: Engine, e: Exception) -> None:
        """Lets the error go on."""
        raise e


class RunLog:
    """Logs the metrics of every epoch, as lines and as TensorBoard events, on the main process alone.

    Args:
        output_dir: Folder of the events.
    """

    def __init__(self, output_dir: str) -> None:
        self.board = MovableWriter(output_dir)

    def attach(self, engine: Engine) -> None:
        """Attaches to a training or validation engine, after the handlers whose metrics are logged."""
        if is_main_process():
            EpochStatsHandler().attach(engine)
            EpochBoardHandler(self.board).attach(engine)
