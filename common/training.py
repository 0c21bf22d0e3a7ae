"""What a training run checks before it starts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import write_split
from .errors import ConfigError, NotEnoughCasesError, OutputError
from .session import is_main_process
from .spectral.distance import Distance


def check_writable(folder: str | Path) -> None:
    """Makes sure that a folder exists and can be written.

    Raises:
        OutputError: when it cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; choose another output_dir or model_dir"
        ) from error


class TrainingPreflight:
    """Finds, before hours are spent, what would make a training run fail at its end.

    Args:
        train_cases: training cases.
        val_cases: validation cases.
        max_epochs: epochs of the run.
        val_interval: epochs between validations; without one no weights are saved.
        distance: of the signature bank, which needs two cases, or three for the Mahalanobis distance.
        output_dir: where ``split.json`` is written, which tells the cases of this run.
        save_dir: where weights and bank will be written.
        test_cases: cases that the run leaves for its evaluation.
    """

    def __init__(
        self,
        train_cases: Sequence[Any],
        val_cases: Sequence[Any],
        *,
        max_epochs: int,
        val_interval: int,
        distance: Distance,
        output_dir: str,
        save_dir: str,
        test_cases: Sequence[Any] = (),
    ) -> None:
        self.train_cases, self.val_cases = train_cases, val_cases
        self.max_epochs, self.val_interval = max_epochs, val_interval
        self.distance, self.folders = distance, (output_dir, save_dir)
        self.parts = {"train": train_cases, "val": val_cases, "test": test_cases}

    def run(self) -> None:
        """Checks everything.

        Raises:
            NotEnoughCasesError: when no threshold could be fitted, or there is nothing to validate on.
            ConfigError: when no validation would take place.
            OutputError: when a folder cannot be written.
        """
        needed = 2 if self.distance == "nearest" else 3
        if len(self.train_cases) < needed or not self.val_cases:
            raise NotEnoughCasesError(
                f"{len(self.train_cases)} training and {len(self.val_cases)} validation case(s): the signature bank's "
                f"threshold needs at least {needed} to train on, and one to validate on; add cases to dataset_dir"
            )
        if not 0 < self.val_interval <= self.max_epochs:
            raise ConfigError(
                f"val_interval is {self.val_interval} with max_epochs {self.max_epochs}: no validation would take "
                "place and no weights be saved; accepted is 1 to max_epochs"
            )
        for folder in self.folders:
            check_writable(folder)
        if is_main_process():
            write_split(self.parts, Path(self.folders[0]) / "split.json")
