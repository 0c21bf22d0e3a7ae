"""Measures how far the values of a case are from those of the training cases; higher means more abnormal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from ..spectral.distance import SHRUNK, Distance, distance_to, leave_one_out
from .interface import Array, Rule


class SignatureDistance(Rule):
    """Takes the distance of a spectral signature to those of the training set, as the signature bank does.

    Args:
        distance: Name of the distance, see ``spectral.distance``.
    """

    def __init__(self, distance: Distance) -> None:
        self.distance = distance
        self.needed = 2 if distance == "nearest" else 3

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Keeps the signatures."""
        self.reference_ = np.unique(np.stack(rows), axis=0)
        return self

    def score(self, row: Array) -> float:
        """Returns the OODM; higher means more abnormal."""
        return float(distance_to(row[None], self.reference_, self.distance)[0])

    def held_out(self, rows: Sequence[Array], tasks: Sequence[str]) -> list[float]:
        """Returns the OODM of every distinct training case against the others."""
        return [float(score) for score in leave_one_out(np.unique(np.stack(rows), axis=0), self.distance)]


class LayeredSignatureDistance(Rule):
    """Takes the distance by a shrunk covariance of signatures whose layers count alike, as the signature bank does.

    A row begins with the number of layers and the length of each one's signature.

    Args:
        distance: ``ledoit_wolf`` or ``clusters``.
    """

    needed = 3

    def __init__(self, distance: Distance) -> None:
        self.kind = SHRUNK[distance]

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Fits the distributions of all layers."""
        sizes, reference = self._read(rows)
        self.gaussian_ = self.kind.fit(reference, sizes)
        return self

    def score(self, row: Array) -> float:
        """Returns the OODM; higher means more abnormal."""
        return float(self.gaussian_.distance(self._read([row])[1])[0])

    def held_out(self, rows: Sequence[Array], tasks: Sequence[str]) -> list[float]:
        """Returns the OODM of every distinct training case against the others."""
        self.fit(rows, tasks)
        return [float(score) for score in self.gaussian_.leave_one_out]

    @staticmethod
    def _read(rows: Sequence[Array]) -> tuple[tuple[int, ...], Array]:
        """The length of each layer's signature, and the distinct signatures."""
        layers = int(rows[0][0])
        sizes = tuple(map(int, rows[0][1 : 1 + layers]))
        return sizes, np.unique(np.stack(rows)[:, 1 + layers :], axis=0)


class KNearest(Rule):
    """Takes the Euclidean distance to the k-th nearest training case (Woodland et al., MELBA 2024).

    Args:
        k: Number of the neighbor, at least 1; with fewer training cases, the farthest. Default 5. The paper tunes it.
        normalize: Whether rows are first scaled to length 1 (Sun et al., ICML 2022). Default false.
    """

    needed = 2

    def __init__(self, k: int = 5, *, normalize: bool = False) -> None:
        self.k, self.normalize = k, normalize

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Keeps the rows in a search tree."""
        self.neighbors_ = NearestNeighbors().fit(np.stack([self._prepare(row) for row in rows]))
        return self

    def score(self, row: Array) -> float:
        """Returns the distance; higher means more abnormal."""
        number = min(self.k, self.neighbors_.n_samples_fit_)
        distances, _ = self.neighbors_.kneighbors(self._prepare(row)[None], n_neighbors=number)
        return float(distances[0, -1])

    def _prepare(self, row: Array) -> Array:
        flat = np.ravel(row)
        return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-12)) if self.normalize else flat


class PCAMahalanobis(Rule):
    """Takes the Mahalanobis distance in the principal components of the training cases (Woodland et al., MELBA 2024).

    Args:
        variance: Share of the training cases' variance that the components hold, in (0, 1). Default 0.95.
    """

    needed = 3

    def __init__(self, variance: float = 0.95) -> None:
        self.variance = variance

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Fits the components."""
        self.components_ = PCA(n_components=self.variance, whiten=True).fit(np.stack([np.ravel(row) for row in rows]))
        return self

    def score(self, row: Array) -> float:
        """Returns the distance; higher means more abnormal."""
        return float(np.linalg.norm(self.components_.transform(np.ravel(row)[None])))


class PCANearest(PCAMahalanobis):
    """Takes the Euclidean distance to the nearest training case in their principal components.

    Args:
        variance: Share of the training cases' variance that the components hold, in (0, 1). Default 0.95.
    """

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Fits the components and keeps the training cases in them."""
        flat = np.stack([np.ravel(row) for row in rows])
        self.components_ = PCA(n_components=self.variance).fit(flat)
        self.reference_ = self.components_.transform(flat)
        return self

    def score(self, row: Array) -> float:
        """Returns the distance; higher means more abnormal."""
        found = self.components_.transform(np.ravel(row)[None])
        return float(np.linalg.norm(self.reference_ - found, axis=1).min())


class ClassMahalanobis(Rule):
    """Takes the Mahalanobis distance of the mean feature of each predicted class to the nearest class of the training.

    Lee et al., *A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks*, NeurIPS
    2018: one mean for each class, one covariance for all. They pool the features of an image, which has one class; here
    those of each predicted class are pooled apart, and the distances are averaged over the classes that are found. The
    covariance is shrunk (Ledoit and Wolf 2004), since there are only as many rows as cases and classes.
    """

    needed = 3

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Fits means and covariance.

        Args:
            rows: Mean features of the classes, ``(K, D)`` for each case; NaN for a class that is not predicted.
            tasks: Name of the data set of each case; not used.
        """
        stacked = np.stack(rows)
        by_class = [features[np.isfinite(features).all(axis=1)] for features in np.moveaxis(stacked, 1, 0)]
        found = [features for features in by_class if len(features)]
        self.means_ = np.stack([features.mean(axis=0) for features in found])
        deviations = [features - features.mean(axis=0) for features in found]
        self.precision_ = LedoitWolf(assume_centered=True).fit(np.concatenate(deviations)).precision_
        return self

    def score(self, row: Array) -> float:
        """Returns the mean distance over the predicted classes; higher means more abnormal."""
        found = row[np.isfinite(row).all(axis=1)]
        apart = found[:, None] - self.means_[None]
        squares = np.einsum("kmd,de,kme->km", apart, self.precision_, apart)
        return float(np.sqrt(squares.clip(min=0).min(axis=1)).mean())
