"""Logs a run."""

from __future__ import annotations

from ignite.engine import Engine
from monai.handlers import StatsHandler


class EpochStatsHandler(StatsHandler):
    """MONAI's ``StatsHandler`` for the metrics of every epoch.

    It leaves errors to the end of the program, which prints one line, where MONAI's logs the whole traceback first.
    """

    def __init__(self) -> None:
        super().__init__(iteration_log=False)

    def exception_raised(self, _engine: Engine, e: Exception) -> None:
        """Lets the error go on."""
        raise e
