"""Turns scores of calibration cases into p-values and thresholds, with the standard library only."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ..errors import BankError, ConfigError, NotEnoughCasesError

DIGITS = 9
"""Decimals of sums of weights, so that three thirds are one."""


class RankedScores:
    """Scores of calibration cases in order, for conformal p-values; a higher score means more abnormal.

    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Bates et al., Testing for Outliers with
    Conformal p-values, Annals of Statistics 51(1), 2023. Several cases of one patient share the weight of one, as in
    Lee, Barber and Willett, Distribution-free Inference with Hierarchical Data, JRSS B, 2025.

    Args:
        scores: Scores of the calibration cases, finite, at least one.
        weights: Weight of each case, above 0, up to 1: one over the number of calibration cases of its patient. Each
            case counts as a patient by default.

    Raises:
        BankError: When there is no score, or a weight is out of its range.
    """

    def __init__(self, scores: Sequence[float], weights: Sequence[float] | None = None) -> None:
        given = [1.0] * len(scores) if weights is None else list(weights)
        if not scores or len(given) != len(scores) or not all(0.0 < weight <= 1.0 for weight in given):
            raise BankError(f"{len(scores)} calibration score(s) with {len(given)} weight(s) in ]0, 1] give no p-value")
        ordered = sorted(zip(scores, given, strict=True), reverse=True)
        self._negated = [-score for score, _ in ordered]
        self._sums = [0.0, *(round(total, DIGITS) for total in accumulate(weight for _, weight in ordered))]

    @property
    def patients(self) -> float:
        """The number of patients: the sum of all weights."""
        return self._sums[-1]

    def p_value(self, score: float) -> float:
        """Returns ``(1 + number of calibration patients that score as high or higher) / (1 + number of patients)``.

        Where calibration cases and the new one are exchangeable, it is at most ``a`` with probability at most ``a``.

        Args:
            score: Score of a new case; higher means more abnormal.

        Returns:
            A number above 0, up to 1; lower means more abnormal.
        """
        return (1.0 + self._sums[bisect_right(self._negated, -score)]) / (1.0 + self.patients)

    def threshold(self, false_alarm_rate: float) -> float:
        """Returns the score above which, and only above which, the p-value is ``false_alarm_rate`` or less.

        Args:
            false_alarm_rate: Promised share of false alarms, above 0, below 1.

        Raises:
            ConfigError: When the rate is out of its range.
            NotEnoughCasesError: When no score could be that rare among so few patients.
        """
        check_rate(false_alarm_rate, self.patients)
        chosen = -self._negated[0]
        for score in self._negated:
            above = self._sums[bisect_left(self._negated, score)]
            if (1.0 + above) / (1.0 + self.patients) > false_alarm_rate:
                break
            chosen = -score
        return chosen


def check_rate(false_alarm_rate: float, patients: float) -> None:
    """Makes sure that a promised rate of false alarms can be kept with so many calibration patients.

    Args:
        false_alarm_rate: Promised share of false alarms, above 0, below 1.
        patients: Number of calibration patients.

    Raises:
        ConfigError: When the rate is out of its range.
        NotEnoughCasesError: When it is below one over the number of patients plus one.
    """
    if not isinstance(false_alarm_rate, int | float) or not 0.0 < false_alarm_rate < 1.0:
        raise ConfigError(
            f"false_alarm_rate is {false_alarm_rate!r}; accepted are numbers above 0 and below 1, or null for the "
            "rule of threshold_c"
        )
    lowest = 1.0 / (1.0 + patients)
    if lowest > false_alarm_rate:
        raise NotEnoughCasesError(
            f"false_alarm_rate is {false_alarm_rate:g}, but no p-value from {patients:g} calibration patient(s) is "
            f"below {lowest:.3g}: raise it, set it to null, or add validation cases"
        )
