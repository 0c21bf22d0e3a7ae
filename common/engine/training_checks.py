"""Checks a training run before it starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import CaseSplit, name_cases, write_split
from ..data.split import patient_of
from ..errors import ConfigError, NotEnoughCasesError
from ..runtime.conformal import check_rate
from ..runtime.distributed import is_main_process
from ..runtime.files import check_writable
from ..runtime.model_settings import SPLIT_FILE, SettingsWriter
from ..spectral.distance import Distance

logger = logging.getLogger(__name__)


class TrainingPreflight:
    """Finds, before hours are spent, what would make a training run fail at its end.

    Args:
        train_cases: Training cases; at least two, or three unless ``distance`` is ``nearest``.
        val_cases: Validation cases, at least one.
        max_epochs: Number of epochs of the run.
        val_interval: Epochs between validations, from 1 to ``max_epochs``; without a validation no weights are saved.
        distance: Distance of the signature bank, see :data:`Distance`; it decides how many cases are needed.
        output_dir: Folder of ``split.json``, which tells the cases of this run.
        save_dir: Folder that weights and bank will be written to.
        split: Split that the cases come from; ``None``, the default, where they were set from outside.
        settings_writer: Keeps the names of the cases beside the weights. Default none.
        foreground_labels: Classes that count, by data set; each data set must be one of the training cases'. Default
            none.
        false_alarm_rate: Share of false alarms that the bank shall promise, above 0, below 1; the patients of the
            validation must suffice for it. ``None``, the default, for no promise.
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
        split: CaseSplit | None = None,
        settings_writer: SettingsWriter | None = None,
        foreground_labels: Mapping[str, Any] | None = None,
        false_alarm_rate: float | None = None,
    ) -> None:
        self.train_cases, self.val_cases = train_cases, val_cases
        self.max_epochs, self.val_interval = max_epochs, val_interval
        self.distance, self.folders = distance, (output_dir, save_dir)
        self.split, self.settings_writer = split, settings_writer
        self.foreground_labels = dict(foreground_labels or {})
        self.false_alarm_rate = false_alarm_rate

    def run(self) -> None:
        """Checks everything.

        Raises:
            NotEnoughCasesError: When no threshold could be fitted, there is nothing to validate on, or too little to
                keep ``false_alarm_rate``.
            ConfigError: When no validation would take place.
            OutputError: When a folder cannot be written.
        """
        needed = 2 if self.distance == "nearest" else 3
        if len(self.train_cases) < needed or not self.val_cases:
            raise NotEnoughCasesError(
                f"{len(self.train_cases)} training and {len(self.val_cases)} validation case(s): the signature bank's "
                f"threshold needs at least {needed} to train on, and one to validate on; add cases to dataset_dir"
            )
        if self.false_alarm_rate is not None:
            # Data sets may number their patients alike.
            patients = {(str(case.get("task", "")), patient_of(case)) for case in self.val_cases}
            check_rate(self.false_alarm_rate, len(patients))
        if not 0 < self.val_interval <= self.max_epochs:
            raise ConfigError(
                f"val_interval is {self.val_interval} with max_epochs {self.max_epochs}: no validation would take "
                "place and no weights be saved; accepted is 1 to max_epochs"
            )
        self._check_sources()
        for folder in self.folders:
            check_writable(folder)
        parts = self._parts()
        if self.settings_writer is not None:
            self.settings_writer.case_names = name_cases(parts)
        if is_main_process():
            write_split(parts, Path(self.folders[0]) / SPLIT_FILE)

    def _parts(self) -> dict[str, Sequence[Any]]:
        """The cases of the run: part -> cases."""
        parts = {"train": self.train_cases, "val": self.val_cases}
        if self.split is not None and self.split.drawn:
            parts["test"] = self.split.part("test")
        return parts

    def _check_sources(self) -> None:
        """Raises when given data are mixed with phantoms, or ``foreground_labels`` names another data set."""
        if len({bool(case.get("phantom")) for case in [*self.train_cases, *self.val_cases]}) > 1:
            raise ConfigError(
                "training cases are given but validation cases are phantoms, or the other way round; give both (in "
                "MONAI Label: val_split above 0)"
            )
        tasks = {str(case.get("task", "")) for case in self.train_cases}
        unknown = sorted(set(self.foreground_labels) - tasks)
        if unknown:
            raise ConfigError(f"foreground_labels names {unknown}; the data sets are {sorted(tasks)}")
