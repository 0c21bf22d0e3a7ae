"""Measures distances by a covariance that is shrunk as much as the number of cases demands, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Array = NDArray[np.float64]

LEAST_SPREAD = 1e-3
"""Smallest standard deviation of a number of a signature, as a share of its layer's: below, it counts as constant."""

LEAST_SHRINKAGE = 1e-3
"""Smallest weight of the identity, so that the covariance of two or three cases can be inverted as well."""

_TINY = 1e-9
"""Spread of a layer that is the same in all cases: any other value lies far away."""


@dataclass(frozen=True, eq=False)
class ShrunkGaussian:
    """Normal distribution of the signatures of one layer, each number scaled by its spread over the cases.

    The covariance of the scaled numbers is ``(1 - delta) S + delta tr(S) / D I`` with the ``delta`` of Ledoit and Wolf
    (Journal of Multivariate Analysis 88, 2004), which errs least in the mean.

    Args:
        mean: Mean of the signatures, ``(D,)``.
        spread: Number that each dimension is divided by, ``(D,)``, above 0.
        root: Lower triangular factor of the covariance of the scaled numbers, ``(D, D)``.
    """

    mean: Array
    spread: Array
    root: Array

    @classmethod
    def fit(cls, signatures: Array) -> ShrunkGaussian:
        """Returns the distribution of signatures ``(K, D)``, ``K`` at least 2."""
        mean = signatures.mean(axis=0)
        centered = signatures - mean
        return cls._of(mean, centered, centered.T @ centered / len(signatures))

    @classmethod
    def without(cls, case: int, centered: Array, covariance: Array) -> ShrunkGaussian:
        """Returns the distribution of all signatures but one, from sums over all, in place of a fit of its own.

        Args:
            case: Number of the signature that is left out.
            centered: All signatures less their mean, ``(K, D)``, ``K`` at least 3.
            covariance: Their covariance (population), ``(D, D)``.
        """
        count, left_out = len(centered), centered[case]
        # The mean of the others lies at -left_out / (K - 1); their scatter lacks one outer product.
        shift = -left_out / (count - 1)
        scatter = count * covariance - count / (count - 1) * np.outer(left_out, left_out)
        others = np.delete(centered, case, axis=0) - shift
        return cls._of(shift, others, scatter / (count - 1))

    @classmethod
    def _of(cls, mean: Array, centered: Array, covariance: Array) -> ShrunkGaussian:
        variance = np.maximum(np.diagonal(covariance), 0.0)
        spread = np.maximum(np.sqrt(variance), max(LEAST_SPREAD * float(np.sqrt(variance.mean())), _TINY))
        scaled = covariance / np.outer(spread, spread)
        size = len(mean)
        level = float(np.trace(scaled)) / size or 1.0
        share = max(ledoit_wolf_shrinkage(centered / spread, scaled), LEAST_SHRINKAGE)
        return cls(mean, spread, np.linalg.cholesky((1.0 - share) * scaled + share * level * np.eye(size)))

    def distance(self, signatures: Array) -> Array:
        """Returns the Mahalanobis distance ``(M,)`` of signatures ``(M, D)``; higher means more abnormal."""
        whitened = solve_triangular(self.root, ((signatures - self.mean) / self.spread).T, lower=True)
        return np.asarray(np.linalg.norm(whitened, axis=0))

    def log_density(self, signature: Array) -> float:
        """Returns the logarithmic density of a signature ``(D,)``, in nats, less the constant ``-D / 2 ln(2 pi)``."""
        volume = np.log(np.diagonal(self.root)).sum() + np.log(self.spread).sum()
        return float(-0.5 * self.distance(signature[None])[0] ** 2 - volume)


def ledoit_wolf_shrinkage(centered: Array, covariance: Array) -> float:
    """Returns the weight of the identity that errs least in the mean, in [0, 1], after Ledoit and Wolf 2004.

    Args:
        centered: Cases less their mean, ``(K, D)``.
        covariance: Their covariance (population), ``(D, D)``.
    """
    count, size = centered.shape
    level = np.trace(covariance) / size
    error = ((centered**2).sum(axis=1) ** 2).sum() / count - (covariance**2).sum()
    distance = (covariance**2).sum() - size * level**2
    if distance <= 0.0:
        return 1.0
    return float(min(max(error / count / distance, 0.0), 1.0))


@dataclass(frozen=True, eq=False)
class LayeredGaussian:
    """Normal distributions of all layers; every layer counts alike, however long its signature is.

    Args:
        layers: Distribution of every layer.
        scales: Root mean square of the leave-one-out distances of the training cases in every layer, ``(L,)``, above 0.
        sizes: Numbers that each layer has in a signature, ``(L,)``.
        leave_one_out: Distance of every training case to the others, ``(K,)``: in every layer the distribution is
            fitted again without the case; the scales of the layers are those of all cases.
    """

    layers: tuple[ShrunkGaussian, ...]
    scales: Array
    sizes: tuple[int, ...]
    leave_one_out: Array

    @classmethod
    def fit(cls, signatures: Array, sizes: Sequence[int] = ()) -> LayeredGaussian:
        """Returns the distributions of training signatures.

        Args:
            signatures: Training signatures, ``(K, D)``, ``K`` at least 3.
            sizes: Numbers that each layer has in a signature, together ``D``. By default, all are one layer's.
        """
        parts = split_layers(signatures, sizes)
        distances = np.stack([_leave_one_out(part) for part in parts], axis=1)
        scales = np.sqrt((distances**2).mean(axis=0))
        scales = np.where(scales > 0.0, scales, 1.0)
        layers = tuple(map(ShrunkGaussian.fit, parts))
        return cls(layers, scales, tuple(part.shape[1] for part in parts), _combine(distances, scales))

    def distance(self, signatures: Array) -> Array:
        """Returns the root mean square ``(M,)`` of the layers' scaled distances; higher means more abnormal."""
        parts = zip(self.layers, split_layers(signatures, self.sizes), strict=True)
        return _combine(np.stack([layer.distance(part) for layer, part in parts], axis=1), self.scales)


def split_layers(signatures: Array, sizes: Sequence[int]) -> list[Array]:
    """Returns the part of each layer of signatures, ``(K, size)`` each.

    Args:
        signatures: Signatures, ``(K, D)``.
        sizes: Numbers that each layer has in a signature, together ``D``; without any, all are one layer's.
    """
    return np.split(signatures, np.cumsum(sizes)[:-1].tolist(), axis=1) if len(sizes) else [signatures]


def leave_one_out_fits(part: Array) -> Iterator[tuple[ShrunkGaussian, Array]]:
    """Yields for each signature of one layer, ``(K, D)``, the distribution of the others, and it, both less the mean.

    Args:
        part: Signatures of the layer, ``K`` at least 3.
    """
    centered = part - part.mean(axis=0)
    covariance = centered.T @ centered / len(part)
    for case, row in enumerate(centered):
        yield ShrunkGaussian.without(case, centered, covariance), row


def _leave_one_out(part: Array) -> Array:
    """Distance of every case to the others in one layer."""
    return np.concatenate([fit.distance(row[None]) for fit, row in leave_one_out_fits(part)])


def _combine(distances: Array, scales: Array) -> Array:
    return np.asarray(np.sqrt(((distances / scales) ** 2).mean(axis=1)))
