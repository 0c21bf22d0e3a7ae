"""Records how long training took, beside the numbers that are the same on every machine."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from ignite.engine import Engine, Events

from ..runtime.distributed import is_main_process
from ..runtime.files import write_csv
from .history import TrainingHistory

TIMES = "times.csv"
COLUMNS = ("epoch", "iteration", "seconds")


class TrainingTimes:
    """Writes ``times.csv``: for every epoch its last iteration, and the seconds from the start of the training to then.

    Validations count. A run that goes on from a checkpoint goes on counting from the epochs before; the pause does not
    count, nor what is done again. No checkpoint holds times, so that one of a resumed run is that of an undisturbed
    one.

    Args:
        history: History of the training, whose folder the file is written to.
    """

    def __init__(self, history: TrainingHistory) -> None:
        self.history = history
        self._start: float | None = None
        self._rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, before the handler that restores a checkpoint."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._start, self._rows = time.perf_counter(), []

    def __call__(self, engine: Engine) -> None:
        """Records the epoch and writes all, on the main process only."""
        if not is_main_process() or self._start is None:
            return
        path, epoch = Path(self.history.output_dir, TIMES), engine.state.epoch
        if not self._rows and epoch > 1:
            # Whoever begins later than with the first epoch goes on from a checkpoint.
            self._rows = [row for row in read_times(path) if row["epoch"] < epoch]
            self._start -= self._rows[-1]["seconds"] if self._rows else 0.0
        seconds = round(time.perf_counter() - self._start, 2)
        self._rows.append({"epoch": epoch, "iteration": engine.state.iteration, "seconds": seconds})
        write_csv(self._rows, COLUMNS, path)


def read_times(path: str | Path) -> list[dict[str, float]]:
    """Returns the rows of a ``times.csv``, epoch by epoch; none where there is no file.

    Args:
        path: Path of the file.
    """
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
