"""Measures distances by a covariance that is shrunk as much as the number of cases demands, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Array = NDArray[np.float64]

LEAST_SPREAD = 1e-3
"""Smallest standard deviation of a number of a signature, as a share of its layer's: below, it counts as constant."""

LEAST_SHRINKAGE = 1e-3
"""Smallest weight of the identity, so that the covariance of two or three cases can be inverted as well."""

LARGEST = 200_000
"""Most numbers of an array of cases left out, 1.6 MB, which a processor keeps at hand: more cases are done in turn."""

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
        covariance = centered.T @ centered / len(signatures)
        spread = _spread(np.diagonal(covariance)[None])[0]
        lengths = ((centered / spread) ** 2).sum(axis=1)
        scaled = covariance / np.outer(spread, spread)
        return cls(mean, spread, _root(scaled[None], lengths[None], len(signatures))[0])

    def distance(self, signatures: Array) -> Array:
        """Returns the Mahalanobis distance ``(M,)`` of signatures ``(M, D)``; higher means more abnormal."""
        whitened = solve_triangular(self.root, ((signatures - self.mean) / self.spread).T, lower=True)
        return np.asarray(np.linalg.norm(whitened, axis=0))


def ledoit_wolf_shrinkage(lengths: Array, covariance: Array, count: int) -> Array:
    """Returns the weights of the identity that err least in the mean, in [0, 1], after Ledoit and Wolf 2004.

    Args:
        lengths: Squared lengths of the cases less their mean, ``(B, K)`` for ``B`` sets of cases; 0 for one that is no
            part of a set.
        covariance: Covariance (population) of every set, ``(B, D, D)``.
        count: Number of cases of a set.

    Returns:
        Weight of every set, ``(B,)``.
    """
    size = covariance.shape[-1]
    level = np.einsum("bii->b", covariance) / size
    squares = np.einsum("bij,bij->b", covariance, covariance)
    error = (lengths**2).sum(axis=1) / count - squares
    distance = squares - size * level**2
    # Where all is a multiple of the identity, nothing is lost by it.
    share = np.divide(error / count, distance, out=np.ones_like(distance), where=distance > 0.0)
    return np.asarray(share.clip(0.0, 1.0))


def _spread(variance: Array) -> Array:
    """What numbers of sets of cases are divided by, ``(B, D)``, from their variances, ``(B, D)``."""
    deviation = np.sqrt(np.maximum(variance, 0.0))
    least = LEAST_SPREAD * np.sqrt((deviation**2).mean(axis=1, keepdims=True))
    return np.maximum(deviation, np.maximum(least, _TINY))


def _root(scaled: Array, lengths: Array, count: int) -> Array:
    """The factors ``(B, D, D)`` of shrunk covariances.

    Args:
        scaled: Covariance (population) of the scaled cases of every set, ``(B, D, D)``; it is overwritten.
        lengths: Squared lengths of the scaled cases, ``(B, K)``, see :func:`ledoit_wolf_shrinkage`.
        count: Number of cases of a set.
    """
    diagonal = np.einsum("bii->bi", scaled)
    level = diagonal.mean(axis=1)
    share = np.maximum(ledoit_wolf_shrinkage(lengths, scaled, count), LEAST_SHRINKAGE)
    scaled *= (1.0 - share)[:, None, None]
    diagonal += (share * np.where(level == 0.0, 1.0, level))[:, None]
    return np.asarray(np.linalg.cholesky(scaled))


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
        distances = np.stack([leave_one_out(part)[0] for part in parts], axis=1)
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


def leave_one_out(part: Array) -> tuple[Array, Array]:
    """Returns how far every case lies from the distribution of the others, and how likely it is by that.

    Args:
        part: Signatures of one layer, ``(K, D)``, ``K`` at least 3.

    Returns:
        Mahalanobis distance ``(K,)``, and logarithmic density ``(K,)``, in nats, less the constant
        ``-D / 2 ln(2 pi)``.
    """
    centered = part - part.mean(axis=0)
    covariance = centered.T @ centered / len(part)
    several = max(1, LARGEST // max(centered.size, covariance.size))
    chunks = [np.arange(first, min(first + several, len(part))) for first in range(0, len(part), several)]
    found = [_left_out(centered, covariance, cases) for cases in chunks]
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


def _left_out(centered: Array, covariance: Array, cases: NDArray[np.intp]) -> tuple[Array, Array]:
    """Distance and logarithmic density of some cases, from sums over all in place of a fit for each."""
    count, rows = len(centered), centered[cases]
    # The mean of the others lies at -row / (K - 1); their scatter lacks one outer product.
    shift, whole, part = -rows / (count - 1), count / (count - 1), count / (count - 1) ** 2
    spread = _spread(whole * np.diagonal(covariance) - part * rows**2)
    weight, scaled = 1.0 / spread, rows / spread
    lengths = weight**2 @ (centered**2).T - 2.0 * (shift * weight**2) @ centered.T
    lengths += ((shift * weight) ** 2).sum(axis=1, keepdims=True)
    lengths[np.arange(len(cases)), cases] = 0.0
    others = weight[:, :, None] * weight[:, None, :]
    others *= whole * covariance
    others -= (part * scaled)[:, :, None] * scaled[:, None, :]
    root = _root(others, lengths, count - 1)
    moved = (rows - shift) * weight
    distance = np.array([np.linalg.norm(solve_triangular(*each, lower=True)) for each in zip(root, moved, strict=True)])
    volume = np.log(np.einsum("bii->bi", root)).sum(axis=1) + np.log(spread).sum(axis=1)
    return distance, -0.5 * distance**2 - volume


def _combine(distances: Array, scales: Array) -> Array:
    return np.asarray(np.sqrt(((distances / scales) ** 2).mean(axis=1)))
