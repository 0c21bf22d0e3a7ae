"""Measures distances where training sets differ in kind: one normal distribution for each cluster of signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .shrunk import Array, LayeredGaussian, leave_one_out, split_layers

LEAST_CASES = 10
"""Fewest training cases of a cluster: fewer say too little of their spread."""

LEAST_GAIN = 5.0
"""Smallest gain of a division in nats a case. Sets of another kind gain tens; groups within one, which are better left
together, one to four."""

STEPS = 100
"""Most steps in which a division in two settles; some five suffice."""

_TINY = 1e-12

Members = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ClusteredGaussian:
    """Normal distributions of clusters of signatures; the nearest one counts.

    A bank of MR and CT is not one normal distribution: between the two lies room where nothing was seen. The clusters
    follow from the signatures alone, so banks stay mergeable. Where nothing is gained by dividing, there is one.

    Args:
        clusters: Distribution of every cluster, see :class:`LayeredGaussian`.
        leave_one_out: Distance of every training case to the others, ``(K,)``.
    """

    clusters: tuple[LayeredGaussian, ...]
    leave_one_out: Array

    @classmethod
    def fit(cls, signatures: Array, sizes: Sequence[int] = ()) -> ClusteredGaussian:
        """Returns the distributions of training signatures.

        Args:
            signatures: Training signatures, ``(K, D)``, ``K`` at least 3.
            sizes: Numbers that each layer has in a signature, together ``D``. By default, all are one layer's.
        """
        members = find_clusters(signatures, sizes)
        clusters = tuple(LayeredGaussian.fit(signatures[cases], sizes) for cases in members)
        distances = np.stack([cluster.distance(signatures) for cluster in clusters])
        for row, cluster, cases in zip(distances, clusters, members, strict=True):
            row[cases] = cluster.leave_one_out
        return cls(clusters, distances.min(axis=0))

    def distance(self, signatures: Array) -> Array:
        """Returns the distance ``(M,)`` of signatures ``(M, D)`` to the nearest cluster; higher means more abnormal."""
        return np.stack([cluster.distance(signatures) for cluster in self.clusters]).min(axis=0)


def find_clusters(signatures: Array, sizes: Sequence[int] = ()) -> list[Members]:
    """Returns the cases of every cluster, one cluster where the signatures are of one kind.

    Cases are divided in two, and the halves in turn, as long as each case is told better by its own part: as long as
    the mean logarithmic density of cases left out gains :data:`LEAST_GAIN`, and each part keeps :data:`LEAST_CASES`.

    Args:
        signatures: Training signatures, ``(K, D)``.
        sizes: Numbers that each layer has in a signature, together ``D``. By default, all are one layer's.

    Example:
        >>> kinds = np.repeat([0.0, 9.0], 12)[:, None] + np.linspace(0, 1, 12)[np.arange(24) % 12, None]
        >>> [len(cases) for cases in find_clusters(kinds)]
        [24]
    """
    found = _divide(signatures, sizes, np.arange(len(signatures)))
    return sorted(found, key=lambda cases: int(cases[0]))


def _divide(signatures: Array, sizes: Sequence[int], cases: Members, density: float | None = None) -> list[Members]:
    """The clusters of some of the cases, whose density may be known already."""
    upper = bisect(signatures[cases], sizes)
    halves = (cases[upper], cases[~upper])
    if min(map(len, halves)) < LEAST_CASES:
        return [cases]
    together = _density(signatures[cases], sizes) if density is None else density
    parts = [_density(signatures[half], sizes) for half in halves]
    # Which half a case is of has to be told as well.
    apart = sum(len(half) * (part + np.log(len(half) / len(cases))) for half, part in zip(halves, parts, strict=True))
    if apart / len(cases) - together < LEAST_GAIN:
        return [cases]
    divided = zip(halves, parts, strict=True)
    return [cluster for half, part in divided for cluster in _divide(signatures, sizes, half, part)]


def bisect(signatures: Array, sizes: Sequence[int] = ()) -> NDArray[np.bool_]:
    """Returns which cases lie in the upper half of a division in two, ``(K,)``; all layers count alike.

    The halves start on either side of the mean along the direction of largest variance, and settle as those of
    k-means do (Boley, *Principal Direction Divisive Partitioning*, 1998, then Lloyd's algorithm). No chance is in it.

    Args:
        signatures: Signatures, ``(K, D)``.
        sizes: Numbers that each layer has in a signature, together ``D``. By default, all are one layer's.
    """
    centered = [part - part.mean(axis=0) for part in split_layers(signatures, sizes)]
    scaled = np.hstack([part / np.sqrt((part**2).sum(axis=1).mean() + _TINY) for part in centered])
    direction = np.linalg.svd(scaled, full_matrices=False)[2][0]
    upper = scaled @ direction > 0.0
    for _ in range(STEPS):
        if upper.all() or not upper.any():
            break
        means = [scaled[side].mean(axis=0) for side in (upper, ~upper)]
        above, below = (((scaled - mean) ** 2).sum(axis=1) for mean in means)
        if bool((upper == (above < below)).all()):
            break
        upper = above < below
    return upper


def _density(signatures: Array, sizes: Sequence[int]) -> float:
    """Mean logarithmic density of every case by the distribution of the others, but for a constant."""
    return float(sum(leave_one_out(part)[1].mean() for part in split_layers(signatures, sizes)))
