"""Computes average precision and best Dice over all voxels of a set from counts: no voxel is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.tables import number_text

EXPONENTS = (103, 135)
"""Biased exponents of a float32 that have bins: scores from 2**-24 to 2**8; smaller ones are one bin, as zero is."""

MANTISSA_BITS = 16
"""Bits of a score that count: bins are 1.5e-5 of a score wide."""


@dataclass(frozen=True)
class BestDice:
    """The highest Dice over all thresholds: an oracle, since the labels choose the threshold.

    Args:
        dice: Dice coefficient, in [0, 1]; NaN without a positive voxel.
        threshold: Score from which a voxel is called positive, itself included; NaN without a positive voxel.
    """

    dice: float
    threshold: float


class PixelCurve:
    """Counts positive and negative voxels by their score, in bins as fine as 1.5e-5 of the score.

    Memory does not depend on the number of voxels, and counts of several parts may be added. Scores that share a bin
    count as equal.

    Example:
        >>> curve = PixelCurve()
        >>> curve.update(torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([1, 0, 1, 0]))
        >>> round(curve.average_precision(), 4), round(curve.best_dice().dice, 4)
        (0.8333, 0.8)
    """

    def __init__(self) -> None:
        bins = ((EXPONENTS[1] - EXPONENTS[0]) << MANTISSA_BITS) + 1
        self.positives: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self.negatives: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)

    def update(self, score: Tensor, truth: Tensor) -> None:
        """Adds voxels.

        Args:
            score: Scores of any shape, at least 0; higher means more abnormal.
            truth: Truth of the same shape, nonzero where a voxel is positive.
        """
        places = _bins(score.detach().cpu().to(torch.float32).flatten())
        positive = np.asarray(truth.cpu().flatten() != 0)
        for counts, chosen in ((self.positives, positive), (self.negatives, ~positive)):
            found, numbers = np.unique(places[chosen], return_counts=True)
            counts[found] += numbers

    @property
    def prevalence(self) -> float:
        """Share of positive voxels, which is the average precision of a score that tells nothing."""
        total = int(self.positives.sum() + self.negatives.sum())
        return int(self.positives.sum()) / total if total else math.nan

    def average_precision(self) -> float:
        """Returns the area under the precision-recall curve, as the mean precision weighted by the gain in recall.

        NaN without a positive voxel.
        """
        true, false = self._falling()
        if not true.size or not true[-1]:
            return math.nan
        gains = np.diff(true, prepend=0)
        return float((gains * true / (true + false)).sum() / true[-1])

    def best_dice(self) -> BestDice:
        """Returns the highest Dice over all thresholds, and that threshold: an oracle."""
        true, false = self._falling()
        if not true.size or not true[-1]:
            return BestDice(math.nan, math.nan)
        dice = 2 * true / (true + false + true[-1])
        best = int(dice.argmax())
        return BestDice(float(dice[best]), _lower_edge(int(self._used()[best])))

    def _used(self) -> NDArray[np.int64]:
        """Bins that hold any voxel, the highest score first."""
        return np.flatnonzero(self.positives + self.negatives)[::-1]

    def _falling(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and false positives when everything down to each used bin is called positive."""
        used = self._used()
        return self.positives[used].cumsum(), self.negatives[used].cumsum()


def figures_text(figures: Mapping[str, Any]) -> str:
    """Returns in words how well a score finds what is abnormal, or that there was nothing to find.

    Args:
        figures: ``average_precision``, ``prevalence`` and ``best_dice`` over the same slices.

    Example:
        >>> figures_text({"average_precision": 0.51234, "prevalence": 0.02, "best_dice": 0.6})
        'average precision 0.5123 (prevalence 0.02000), best Dice 0.6000 (oracle threshold)'
        >>> figures_text({"average_precision": math.nan, "prevalence": 0.0, "best_dice": math.nan})
        'no label shows a lesion: average precision and Dice are undefined'
    """
    if math.isnan(figures["average_precision"]):
        return "no label shows a lesion: average precision and Dice are undefined"
    precision, share, dice = (number_text(figures[key]) for key in ("average_precision", "prevalence", "best_dice"))
    return f"average precision {precision} (prevalence {share}), best Dice {dice} (oracle threshold)"


def _bins(score: Tensor) -> NDArray[np.int64]:
    """The bins of scores; the bits of floats that are not negative are in the order of the floats."""
    bits = np.ascontiguousarray(score.numpy()).view(np.int32).astype(np.int64)
    places = (bits >> (23 - MANTISSA_BITS)) - (EXPONENTS[0] << MANTISSA_BITS) + 1
    return np.clip(places, 0, (EXPONENTS[1] - EXPONENTS[0]) << MANTISSA_BITS)


def _lower_edge(place: int) -> float:
    """The smallest score of a bin."""
    if place == 0:
        return 0.0
    bits = np.array((place - 1 + (EXPONENTS[0] << MANTISSA_BITS)) << (23 - MANTISSA_BITS), dtype=np.int32)
    return float(bits.view(np.float32))
