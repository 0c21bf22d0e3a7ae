"""Judges blocks by the labels of their nearest neighbors in the training set (DkNN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ..errors import NotEnoughCasesError
from .interface import Array, Rule


class DeepNearestNeighbors(Rule):
    """Takes one minus the credibility of deep k-nearest neighbors.

    Papernot and McDaniel, *Deep k-Nearest Neighbors*, 2018, as Karimi and Gholipour 2023 use it (section III-D, method
    c). In every layer the k nearest training blocks vote. The nonconformity of a label is the number of neighbors, over
    all layers, that have another one. Its p value is the share of calibration blocks that conform no better, ties
    included. The label of a scan is the one that most of its blocks have the largest p value for; the credibility is
    the mean p value of that label over the blocks.

    A block's label is its data set where the training set has several, as in the paper. With a single one it is the
    class that covers most of the block. Blocks of the same pass stand in for augmented copies of an image.

    Args:
        k: Number of neighbors in each layer, at least 1. Default 10.
        calibration: Share of the training cases that are kept for calibration, in (0, 1). Default 0.2, the paper's.
        judged: Number of blocks of a scan that are judged, those on the predicted foreground first, at least 1. Default
            10, the paper's.
        seed: Seed of the draw of the calibration cases. Default 0.
    """

    needed = 5

    def __init__(self, k: int = 10, *, calibration: float = 0.2, judged: int = 10, seed: int = 0) -> None:
        self.k, self.calibration, self.judged, self.seed = k, calibration, judged, seed

    def fit(self, rows: Sequence[Array], tasks: Sequence[str]) -> Self:
        """Keeps the blocks of most cases, and what the others say of how well blocks conform.

        Args:
            rows: Blocks of each case, see :meth:`FeaturePooling.blocks`.
            tasks: Name of the data set of each case.

        Raises:
            NotEnoughCasesError: When all blocks have one label.
        """
        order = np.random.default_rng(self.seed).permutation(len(rows))
        number = max(1, round(self.calibration * len(rows)))
        self._held, kept = order[:number], order[number:]
        names = sorted(set(tasks))
        labels = [
            np.full(len(row), names.index(task)) if len(names) > 1 else row[:, 0, 0].astype(int)
            for row, task in zip(rows, tasks, strict=True)
        ]
        blocks = np.concatenate([rows[k][:, 1:] for k in kept])
        self.labels_ = np.concatenate([labels[k] for k in kept])
        self.classes_ = np.unique(self.labels_)
        if len(self.classes_) < 2:
            raise NotEnoughCasesError("all blocks of the training cases have one label: DkNN needs two")
        neighbors = min(self.k, len(blocks))
        self.layers_ = [
            NearestNeighbors(n_neighbors=neighbors).fit(blocks[:, layer]) for layer in range(blocks.shape[1])
        ]
        conforming = []
        for case in self._held:
            strange = self._nonconformity(rows[case][:, 1:])
            places = np.searchsorted(self.classes_, labels[case]).clip(max=len(self.classes_) - 1)
            conforming.append(strange[np.arange(len(places)), places])
        self.calibration_ = np.sort(np.concatenate(conforming))
        return self

    def _nonconformity(self, blocks: Array) -> Array:
        """Number of neighbors with another label, ``(blocks, labels)``."""
        found = [layer.kneighbors(blocks[:, k], return_distance=False) for k, layer in enumerate(self.layers_)]
        votes = self.labels_[np.concatenate(found, axis=1)]
        return np.stack([(votes != label).sum(axis=1) for label in self.classes_], axis=1).astype(float)

    def score(self, row: Array) -> float:
        """Returns one minus the credibility, in [0, 1]; higher means more abnormal."""
        order = np.argsort(row[:, 0, 1] <= 0, kind="stable")
        strange = self._nonconformity(row[order[: self.judged], 1:])
        below = np.searchsorted(self.calibration_, strange.ravel(), side="left").reshape(strange.shape)
        p_values = 1 - below / len(self.calibration_)
        most = np.bincount(p_values.argmax(axis=1), minlength=len(self.classes_)).argmax()
        return float(1 - p_values[:, most].mean())

    def held_out(self, rows: Sequence[Array], tasks: Sequence[str]) -> list[float]:
        """Returns the scores of the calibration cases, whose blocks are no neighbors of others."""
        self.fit(rows, tasks)
        return [self.score(rows[case]) for case in self._held]
