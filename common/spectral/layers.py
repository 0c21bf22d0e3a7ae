"""Tells which layers of a network see a scan as most abnormal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.bank_rules import check_layers
from .distance import Array, leave_one_out, nearest_distance
from .shrunk import split_layers

SHOWN = 2
"""Most layers that a report names."""


@dataclass(frozen=True, eq=False)
class LayerSpreads:
    """Leave-one-out distances of the training cases in every layer by itself.

    Args:
        sizes: Numbers that each layer has in a signature, ``(L,)``, in the order of the layers.
        spreads: Mean and standard deviation of the distance of a training case to the nearest other one in that layer,
            ``(L, 2)``.
    """

    sizes: tuple[int, ...]
    spreads: Array

    @classmethod
    def of(cls, signatures: Array, sizes: Sequence[int]) -> LayerSpreads | None:
        """Returns the spreads of training signatures; ``None`` with a single layer, which has nothing to compare.

        Args:
            signatures: Training signatures, ``(K, D)``, at least two.
            sizes: Numbers that each layer has in a signature; where they do not add up to ``D``, ``None`` is returned.
        """
        if len(sizes) < 2 or sum(sizes) != signatures.shape[1]:
            return None
        distances = [leave_one_out(part, "nearest") for part in split_layers(signatures, sizes)]
        return cls(tuple(sizes), np.asarray([[values.mean(), values.std()] for values in distances]))

    def deviating(self, signature: Array, signatures: Array, names: Sequence[str], c: float) -> list[str]:
        """Returns a phrase for each layer beyond ``c`` deviations of training, the farthest first, at most two.

        Args:
            signature: Signature of a scan, ``(D,)``.
            signatures: Training signatures, ``(K, D)``.
            names: Names of the layers.
            c: Number of standard deviations above the mean from which a layer counts as deviating.
        """
        far = []
        parts = zip(split_layers(signature[None], self.sizes), split_layers(signatures, self.sizes), strict=True)
        for name, (one, others), (mean, std) in zip(names, parts, self.spreads.tolist(), strict=True):
            deviations = (float(nearest_distance(one, others)[0]) - mean) / max(std, 1e-12)
            if deviations > c:
                far.append((deviations, name))
        return [f"layer {name} deviates by {number:.3g} spreads" for number, name in sorted(far, reverse=True)[:SHOWN]]

    def content(self) -> dict[str, Any]:
        """Returns the arrays of a bank's file."""
        return {"layer_sizes": np.asarray(self.sizes, dtype=np.int64), "layer_spreads": self.spreads}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> LayerSpreads | None:
        """Returns the spreads in the arrays of a bank's file; ``None`` where these arrays are missing or empty.

        Raises:
            BankError: When they are none of the bank's layers.
        """
        if not np.size(content.get("layer_sizes", ())) + np.size(content.get("layer_spreads", ())):
            return None
        sizes, spreads = content["layer_sizes"].tolist(), np.asarray(content["layer_spreads"])
        check_layers(sizes, spreads.tolist(), content["signatures"].shape[1], content["layers"].size)
        return cls(tuple(sizes), spreads)
