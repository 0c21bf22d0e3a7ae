"""Measures how far a spectral signature is from those of the training set; higher means more abnormal."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Distance = Literal["nearest", "mahalanobis"]
Array = NDArray[np.float64]

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


def distance_to(signatures: Array, reference: Array, distance: Distance) -> Array:
    """Returns the OODM of each signature: :func:`nearest_distance` or :func:`mahalanobis_distance`."""
    if distance == "nearest":
        return nearest_distance(signatures, reference)
    return mahalanobis_distance(signatures, reference)


def leave_one_out(reference: Array, distance: Distance) -> Array:
    """Returns the OODM of each reference signature against all the others.

    For the Mahalanobis distance, mean and covariance are fitted again without the case. An in-sample distance is too
    small, and a threshold from it raises false alarms.

    Args:
        reference: Signatures of the training set, ``(K, D)``, without duplicates.
        distance: ``nearest`` or ``mahalanobis``.

    Returns:
        ``(K,)``; higher means more abnormal.
    """
    if distance == "nearest":
        between = cdist(reference, reference)
        np.fill_diagonal(between, np.inf)
        return np.asarray(between.min(axis=1))
    others = ~np.eye(len(reference), dtype=bool)
    parts = [distance_to(case[None], reference[keep], distance) for case, keep in zip(reference, others, strict=True)]
    return np.concatenate(parts)
