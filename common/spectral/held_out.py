"""Keeps the signatures of cases that trained no weights: what a bank's p-values are calibrated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import BankError
from ..runtime.conformal import RankedScores
from .distance import Array, Distance, distance_to


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Signatures of cases that trained no weights, with their scores against a bank; none by default.

    Holds no name: of patients, the weights only tell how many cases each has.

    Args:
        signatures: Signatures, ``(M, D)`` float64, sorted, without duplicates.
        weights: Weight of each case, ``(M,)``, above 0, up to 1: one over the number of cases of its patient.
        scores: OODM of each case against the training signatures, ``(M,)``; higher means more abnormal.
    """

    signatures: Array = field(default_factory=lambda: np.empty((0, 0)))
    weights: Array = field(default_factory=lambda: np.empty(0))
    scores: Array = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, signatures: Tensor | Array | Sequence[Any], patients: Sequence[Hashable] | None = None) -> HeldOut:
        """Returns held-out cases, yet without scores; exact duplicates are dropped.

        Args:
            signatures: Signatures, ``(M, D)``, one row for each case.
            patients: What tells the patient of each case. Cases of one patient are not independent, so they share the
                weight of one. By default, each case has its own.

        Raises:
            BankError: When a signature is not finite.
        """
        rows = stack_rows(signatures)
        if not np.isfinite(rows).all():
            raise BankError("a held-out signature holds NaN or infinite values: no bank can be fitted")
        unique, places = np.unique(rows, axis=0, return_index=True)
        owners = [place if patients is None else patients[place] for place in places.tolist()]
        number = Counter(owners)
        return cls(unique, np.asarray([1.0 / number[owner] for owner in owners]), np.empty(0))

    def against(self, reference: Array, distance: Distance, sizes: Sequence[int] = ()) -> HeldOut:
        """Returns the cases with their OODM against training signatures; exact copies of these are dropped.

        Args:
            reference: Signatures of the training set, ``(K, D)``.
            distance: Distance of the bank.
            sizes: Numbers that each layer has in a signature. By default, all are one layer's.

        Raises:
            BankError: When signatures have another length than those of the training set.
        """
        if not len(self.signatures):
            return HeldOut()
        if self.signatures.shape[1:] != reference.shape[1:]:
            raise BankError(
                f"held-out signatures have shape {self.signatures.shape}, those of training {reference.shape}"
            )
        trained = {row.tobytes() for row in reference}
        fresh = np.asarray([row.tobytes() not in trained for row in self.signatures])
        if not fresh.any():
            return HeldOut()
        signatures = self.signatures[fresh]
        return HeldOut(signatures, self.weights[fresh], distance_to(signatures, reference, distance, sizes))

    def ranked(self, leave_one_out: Array) -> RankedScores:
        """Returns the scores that p-values come from: those of these cases, or, without any, those of training cases.

        Args:
            leave_one_out: OODM of each training case against the others, ``(K,)``.
        """
        if len(self.scores):
            return RankedScores(self.scores.tolist(), self.weights.tolist())
        return RankedScores(leave_one_out.tolist())

    @classmethod
    def merge(cls, parts: Iterable[HeldOut]) -> HeldOut:
        """Returns the cases of several banks, yet without scores; exact duplicates are dropped."""
        filled = [part for part in parts if len(part.signatures)]
        if not filled:
            return cls()
        rows, places = np.unique(np.concatenate([part.signatures for part in filled]), axis=0, return_index=True)
        return cls(rows, np.concatenate([part.weights for part in filled])[places], np.empty(0))

    def content(self) -> dict[str, Array]:
        """Returns the arrays of a bank's file."""
        return {
            "calibration": self.scores,
            "calibration_signatures": self.signatures,
            "calibration_weights": self.weights,
        }

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> HeldOut:
        """Returns the cases in the arrays of a bank's file; none where these arrays are missing."""
        if "calibration" not in content:
            return cls()
        names = ("calibration_signatures", "calibration_weights", "calibration")
        return cls(*(content[name] for name in names))

    def follows(self, computed: HeldOut) -> bool:
        """Returns whether these cases, read from a file, have the scores that were computed from their signatures."""
        same = all(getattr(self, name).shape == getattr(computed, name).shape for name in vars(self))
        return same and np.allclose(self.scores, computed.scores, rtol=1e-6, atol=1e-12)


def stack_rows(signatures: Tensor | Array | Sequence[Any]) -> Array:
    """Returns signatures as rows of float64, ``(K, D)``; ``(0, 0)`` without any."""
    if not len(signatures):
        return np.empty((0, 0))
    return np.stack([np.asarray(row, dtype=np.float64) for row in signatures])
