"""Predicts the Dice of a scan from how abnormal it is, with a lower bound that a promised share of scans keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from ..errors import ConfigError
from ..runtime.bank_rules import CURVES, check_curve
from .distance import Array

BINS = 3
"""Most ranges of scores that have a margin of their own."""

MIN_PATIENTS = 4
"""Fewest patients that a curve is fitted to."""

OODM_POWER = 0.15
"""How much the OODM counts in the quality score; chosen on hippocampus and liver, where 0.1 to 0.2 err alike."""

FOLDS = 5
"""Parts of the patients; the margins come from the scans of each part and the curve of the others."""


@dataclass(frozen=True, eq=False)
class QualityCurve:
    """Dice to expect at a score, never rising with it, and how far below it may lie.

    The score is the OODM, or :func:`quality_score`; higher means more abnormal.

    The curve is an isotonic regression. The margins are conformal quantiles of what scans lack to a curve of other
    patients, across folds: Barber, Candes, Ramdas and Tibshirani, Predictive Inference with the Jackknife+, Annals of
    Statistics 49(1), 2021. For exchangeable patients theory promises about ``1 - 2 (1 - coverage)``; in simulations the
    bound keeps ``coverage``. A patient counts once in each range of scores, however many scans it has there, see
    :class:`RankedScores`.

    Args:
        score: Scores of the knots, ``(Q,)``, rising; the last one is the highest that was seen.
        dice: Dice at the knots, ``(Q,)`` in [0, 1], never rising; in between it is interpolated.
        edges: Scores at which a range with another margin begins, ``(B - 1,)``, rising.
        margins: How far below the curve the bound lies, ``(B,)`` in [0, 1], never falling.
        coverage: Share of scans whose Dice is promised to reach the bound, above 0, below 1.
    """

    score: Array
    dice: Array
    edges: Array
    margins: Array
    coverage: float

    @classmethod
    def fit(
        cls, scores: Sequence[float], dice: Sequence[float], patients: Sequence[Hashable], *, coverage: float = 0.9
    ) -> QualityCurve | None:
        """Returns the curve of labeled scans that trained no weights, undamaged and damaged.

        Args:
            scores: Score of each scan, ``(N,)``, such as its OODM against the bank; higher means more abnormal.
            dice: Dice of each scan, ``(N,)`` in [0, 1]; scans whose Dice is NaN are left out.
            patients: What tells the patient of each scan; folds are made of whole patients.
            coverage: Share of scans whose Dice shall reach the lower bound, above 0, below 1. Default 0.9.

        Returns:
            The curve; ``None`` with fewer than :data:`MIN_PATIENTS` patients.

        Raises:
            ConfigError: When ``coverage`` is out of its range.
        """
        check_coverage(coverage)
        score, truth = np.asarray(scores, dtype=np.float64), np.asarray(dice, dtype=np.float64)
        names = sorted({name for name, value in zip(patients, truth, strict=True) if not math.isnan(value)}, key=str)
        if len(names) < MIN_PATIENTS:
            return None
        place = {name: number for number, name in enumerate(names)}
        owners = np.asarray([place.get(name, -1) for name in patients])
        owners[np.isnan(truth)] = -1
        known = owners >= 0
        score, truth, owners = score[known], truth[known], owners[known]
        missing, folds = np.empty(len(score)), owners % FOLDS
        for fold in np.unique(folds):
            inside = folds == fold
            missing[inside] = np.interp(score[inside], *_fit_knots(score[~inside], truth[~inside])) - truth[inside]
        edges, margins = fit_margins(score, missing, owners, coverage)
        return cls(*_fit_knots(score, truth), edges, margins, float(coverage))

    def expect(self, score: float) -> tuple[float, float]:
        """Returns the Dice to expect at a score, and the lower bound, both in [0, 1].

        Above the highest score that was seen nothing is promised: the bound is 0.

        Args:
            score: Score of a scan; higher means more abnormal.
        """
        expected = float(np.interp(score, self.score, self.dice))
        if score > self.score[-1]:
            return expected, 0.0
        margin = float(self.margins[np.searchsorted(self.edges, score, side="right")])
        return expected, max(0.0, expected - margin)

    def content(self, prefix: str = "quality") -> dict[str, Any]:
        """Returns the arrays of a bank's file.

        Args:
            prefix: What the names of the arrays begin with, of :data:`CURVES`. Default ``quality``, the curve of OODM.
        """
        return {_array_name(prefix, name): np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def read(cls, content: Mapping[str, Any], prefix: str = "quality") -> QualityCurve | None:
        """Returns the curve in the arrays of a bank's file; ``None`` where these arrays are missing or empty.

        Args:
            content: Arrays of the file, by name.
            prefix: What the names of the arrays begin with. Default ``quality``, the curve of OODM.

        Raises:
            BankError: When they are no curve.
        """
        names = [_array_name(prefix, name) for name in ("score", "dice", "edges", "margins")]
        if not any(np.size(content.get(name, ())) for name in names):
            return None
        score, dice, edges, margins = (content[name] for name in names)
        coverage = float(content[_array_name(prefix, "coverage")])
        check_curve(score.tolist(), dice.tolist(), edges.tolist(), margins.tolist(), coverage)
        return cls(score, dice, edges, margins, coverage)


def quality_score(uncertainty: float, oodm: float) -> float:
    """Returns what ranks scans by Dice: how unsure the network is, and a little how abnormal the scan is.

    Uncertainty ranks best of all on scans of the hippocampus and the liver; on those of the heart, which had no part
    in the choice, the OODM adds much. See the results of ``spectral_ood``.

    Args:
        uncertainty: How unsure the network is of its segmentation, from 0 to 1.
        oodm: OODM of the scan.

    Returns:
        ``uncertainty * oodm ** OODM_POWER``; higher means more abnormal.
    """
    return float(uncertainty * oodm**OODM_POWER)


def expect_dice(*known: tuple[QualityCurve | None, float | None]) -> tuple[float, float] | None:
    """Returns the Dice to expect of a scan of which several scores are known, and its lower bound, in [0, 1].

    The bound is the lowest of all, since a network may be sure of nonsense. Each keeps the promised coverage, so that
    does.

    Args:
        *known: Curves and the scan's score on each, the best first; the first decides what is expected. Where one of a
            pair is ``None``, the pair does not count.

    Returns:
        Both; ``None`` where no pair counts.
    """
    found = [curve.expect(score) for curve, score in known if curve is not None and score is not None]
    return (found[0][0], min(found[0][0], *(low for _, low in found))) if found else None


def _array_name(prefix: str, name: str) -> str:
    """Name of an array of a curve in a bank's file."""
    return f"{prefix}_{CURVES[prefix]}" if name == "score" else f"{prefix}_{name}"


def _fit_knots(score: Array, dice: Array) -> tuple[Array, Array]:
    """Scores and Dice of the knots of an isotonic regression that never rises; its ends are the ends of the scores."""
    regression = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False, out_of_bounds="clip").fit(score, dice)
    return np.asarray(regression.X_thresholds_), np.asarray(regression.y_thresholds_)


def fit_margins(score: Array, missing: Array, patients: NDArray[np.int64], coverage: float) -> tuple[Array, Array]:
    """Returns the edges of ranges of scores and their margins, never falling; as many ranges as the patients allow.

    Args:
        score: Scores of scans, ``(N,)``.
        missing: How much Dice each lacks to a curve of other patients, ``(N,)``; negative where it is better.
        patients: Patient of each scan, ``(N,)``.
        coverage: Share of scans whose Dice shall reach the bound.

    Returns:
        ``(B - 1,)`` and ``(B,)``. With too few patients for any promise, the one margin is 1.
    """
    for number in range(BINS, 0, -1):
        edges = np.unique(np.quantile(score, np.arange(1, number) / number))
        inside = np.searchsorted(edges, score, side="right")
        margins = [
            conformal_quantile(missing[inside == place], patients[inside == place], coverage)
            for place in range(len(edges) + 1)
        ]
        if max(margins) < math.inf:
            # A bound that never rises with the score; larger margins only keep more of the promise.
            return edges, np.clip(np.maximum.accumulate(margins), 0.0, 1.0)
    return np.empty(0), np.ones(1)


def conformal_quantile(values: Array, patients: NDArray[np.int64], coverage: float) -> float:
    """Returns the value that one of a new patient exceeds with a probability of at most ``1 - coverage``.

    Args:
        values: Values of scans, ``(N,)``.
        patients: Patient of each scan, ``(N,)``; the scans of a patient share the weight of one.
        coverage: Promised share, above 0, below 1.

    Returns:
        The value; infinite where there are too few patients for the promise.
    """
    number = Counter(patients.tolist())
    weights = np.asarray([1.0 / number[owner] for owner in patients.tolist()])
    order = np.argsort(values)
    reached = np.round(np.cumsum(weights[order]), 9)
    enough = np.flatnonzero(reached >= coverage * (len(number) + 1) - 1e-9)
    return float(values[order][enough[0]]) if len(enough) else math.inf


def patients_needed(coverage: float) -> int:
    """Returns how many labeled patients a lower bound of such a coverage takes."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def check_coverage(coverage: float) -> None:
    """Makes sure that a coverage is one.

    Raises:
        ConfigError: When it is not above 0 and below 1.
    """
    if not isinstance(coverage, int | float) or not 0.0 < coverage < 1.0:
        raise ConfigError(f"coverage is {coverage!r}; accepted are numbers above 0 and below 1, such as 0.9")
