"""Measures how far a spectral signature is from those of the training set; higher means more abnormal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from .clusters import ClusteredGaussian
from .shrunk import LayeredGaussian

Distance = Literal["nearest", "mahalanobis", "ledoit_wolf", "clusters"]
Array = NDArray[np.float64]

SHRUNK: dict[str, type[LayeredGaussian | ClusteredGaussian]] = {
    "ledoit_wolf": LayeredGaussian,
    "clusters": ClusteredGaussian,
}
"""Distances by a shrunk covariance -> what is fitted for them."""

SHRINKAGE = 0.05
"""Share of the mean variance added to the covariance's diagonal, so that it can be inverted with few cases."""


def nearest_distance(signatures: Array, reference: Array) -> Array:
    """Returns the Euclidean distance of each signature to its nearest reference signature.

    Karimi and Gholipour 2023, equation 1.

    Args:
        signatures: Signatures to judge, ``(M, D)``.
        reference: Signatures of the training set, ``(K, D)``, ``K`` at least 1.

    Returns:
        ``(M,)``; higher means more abnormal.
    """
    return np.asarray(cdist(signatures, reference).min(axis=1))


def mahalanobis_distance(signatures: Array, reference: Array, *, shrinkage: float = SHRINKAGE) -> Array:
    """Returns the Mahalanobis distance of each signature to the reference signatures.

    Not in the paper. The covariance is ``S + shrinkage * tr(S) / D * I`` over all ``D`` dimensions.

    Args:
        signatures: Signatures to judge, ``(M, D)``.
        reference: Signatures of the training set, ``(K, D)``, ``K`` at least 2.
        shrinkage: Weight of the identity, above 0. Default :data:`SHRINKAGE`, 0.05.

    Returns:
        ``(M,)``; higher means more abnormal.
    """
    mean = reference.mean(axis=0)
    covariance = np.cov(reference, rowvar=False, bias=True).reshape(len(mean), len(mean))
    covariance = covariance + shrinkage * np.trace(covariance) / len(mean) * np.eye(len(mean))
    # Whitening by the Cholesky factor keeps the squared distance a sum of squares, never a small negative number.
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (signatures - mean).T)
    return np.asarray(np.linalg.norm(whitened, axis=0))


def fit_distance(reference: Array, distance: Distance, sizes: Sequence[int] = ()) -> Callable[[Array], Array]:
    """Returns the function that gives the OODM ``(M,)`` of signatures ``(M, D)``; higher means more abnormal.

    Args:
        reference: Signatures of the training set, ``(K, D)``, ``K`` at least 2, or 3 for a shrunk covariance.
        distance: ``nearest``, see :func:`nearest_distance`; ``mahalanobis``, see :func:`mahalanobis_distance`; or, with
            a shrunk covariance, ``ledoit_wolf``, see :class:`LayeredGaussian`, or ``clusters``, see
            :class:`ClusteredGaussian`.
        sizes: Numbers that each layer has in a signature, together ``D``; a shrunk covariance weighs all layers alike.
            By default, all are one layer's.
    """
    if distance in SHRUNK:
        return _fit_shrunk(reference, distance, sizes).distance
    return partial(nearest_distance if distance == "nearest" else mahalanobis_distance, reference=reference)


def _fit_shrunk(reference: Array, distance: Distance, sizes: Sequence[int]) -> LayeredGaussian | ClusteredGaussian:
    """Fits a distance by a shrunk covariance, in one thread.

    Its factorizations are many and small: threads would wait for one another, on a busy machine for minutes, and the
    last digits would depend on their number.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        return SHRUNK[distance].fit(reference, sizes)


def distance_to(signatures: Array, reference: Array, distance: Distance, sizes: Sequence[int] = ()) -> Array:
    """Returns the OODM of each signature; higher means more abnormal. Arguments are those of :func:`fit_distance`."""
    return fit_distance(reference, distance, sizes)(signatures)


def leave_one_out(reference: Array, distance: Distance, sizes: Sequence[int] = ()) -> Array:
    """Returns the OODM of each reference signature against all the others.

    Except for the nearest one, mean and covariance are fitted again without the case. An in-sample distance is too
    small, and a threshold from it raises false alarms.

    Args:
        reference: Signatures of the training set, ``(K, D)``, without duplicates.
        distance: ``nearest``, ``mahalanobis``, ``ledoit_wolf`` or ``clusters``.
        sizes: Numbers that each layer has in a signature, together ``D``. By default, all are one layer's.

    Returns:
        ``(K,)``; higher means more abnormal.
    """
    if distance == "nearest":
        between = cdist(reference, reference)
        np.fill_diagonal(between, np.inf)
        return np.asarray(between.min(axis=1))
    if distance in SHRUNK:
        return _fit_shrunk(reference, distance, sizes).leave_one_out
    others = ~np.eye(len(reference), dtype=bool)
    parts = [distance_to(case[None], reference[keep], distance) for case, keep in zip(reference, others, strict=True)]
    return np.concatenate(parts)
