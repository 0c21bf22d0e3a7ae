"""Fits detectors to training cases and scores others: one small interface for all of them.

Of every scan a detector needs one measure, a few numbers. What it learns of those of the training cases is a rule.
Higher scores mean more abnormal, always.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, NotEnoughCasesError

Array = NDArray[np.float64]
Case = Mapping[str, Any]
"""What is kept of a scan: the values of each measure by its name, and ``task``, the data set that it belongs to."""


class Rule(ABC):
    """What a detector learns of the training cases, and how it judges another by it."""

    needed = 1
    """Smallest number of training cases."""

    @abstractmethod
    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Returns the rule itself, fitted to training cases.

        Args:
            rows: Values of the measure, one array for each case.
            tasks: Name of the data set of each case.
        """

    @abstractmethod
    def score(self, row: Array) -> float:
        """Returns the score of one case; higher means more abnormal."""

    def held_out(self, rows: Sequence[Array], tasks: Sequence[str]) -> list[float]:
        """Returns the score of each training case by a rule that was fitted to the others; the rule changes.

        Arguments are those of :meth:`fit`.
        """
        scores = []
        for number, row in enumerate(rows):
            rest = [k for k in range(len(rows)) if k != number]
            scores.append(self.fit([rows[k] for k in rest], [tasks[k] for k in rest]).score(row))
        return scores


class OwnValue(Rule):
    """Takes the only value of a case as its score: there is nothing to learn but the threshold."""

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Returns the rule as it is."""
        return self

    def score(self, row: Array) -> float:
        """Returns the first value of the measure; higher means more abnormal."""
        return float(np.ravel(row)[0])


@dataclass
class Detector:
    """Judges scans by one of their measures.

    Args:
        name: Name of the detector.
        measure: Name of the measure that it needs of a case.
        rule: Rule that turns values of the measure into a score. Default the value itself.
        c: Number of standard deviations above the mean score of the training cases at which the threshold lies.
            Default 2.5, the paper's.
        own_network: Whether the measure is of a network of the detector's own, whose Dice is the second value. Default
            false.
    """

    name: str
    measure: str
    rule: Rule
    c: float = 2.5
    own_network: bool = False

    def __post_init__(self) -> None:
        self.training_scores_: list[float] = []
        self.threshold_ = float("nan")

    def fit(self, cases: Sequence[Case]) -> Detector:
        """Returns the detector itself, fitted to training cases.

        The threshold is ``mean + c * std`` of their scores, each by a rule that was fitted without it (Karimi and
        Gholipour 2023, equation 2, for all detectors alike).

        Raises:
            NotEnoughCasesError: When there are too few training cases.
        """
        if len(cases) < self.rule.needed:
            raise NotEnoughCasesError(
                f"{len(cases)} training case(s): {self.name} needs {self.rule.needed}; add cases to dataset_dir"
            )
        rows, tasks = [self._row(case) for case in cases], [str(case.get("task", "")) for case in cases]
        self.training_scores_ = self.rule.held_out(rows, tasks)
        self.rule.fit(rows, tasks)
        scores = np.asarray(self.training_scores_)
        self.threshold_ = float(scores.mean() + self.c * scores.std())
        return self

    def score(self, case: Case) -> float:
        """Returns the score of a case; higher means more abnormal.

        Raises:
            FeatureError: When the score is not finite, naming the detector.
        """
        score = self.rule.score(self._row(case))
        if not np.isfinite(score):
            raise FeatureError(f"{self.name} gives a score of {score}: the network's outputs are not finite")
        return score

    def _row(self, case: Case) -> Array:
        return np.asarray(case[self.measure], dtype=np.float64)
