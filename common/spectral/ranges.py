"""Keeps the ranges of a training set's plain properties, and says in words which of them a scan leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.bank_rules import check_ranges
from .distance import Array
from .properties import QUANTILES, ScanProperties

WIDENING = 0.25
"""Share of a range's width that a scan may lie beyond either end, as one of the same kind often does a little."""

SLACK = 0.05
"""Further share that it may lie beyond: of the larger end, or, for intensities, of all training intensities' span."""

TILT_SLACK = 5.0
"""Further degrees that a tilt may lie beyond."""

THICK = 1.5
"""How much larger than along the other axes a voxel is whose extent is called the thickness of slices."""

WAYS = {
    "x": "left to right",
    "y": "back to front",
    "z": "foot to head",
    "w": "along the width",
    "h": "along the height",
}
"""Words for the axes."""

LEVELS = {
    "dark": "dark intensities (1 % quantile)",
    "median": "median intensity",
    "bright": "bright intensities (99 %)",
}
"""Words for the quantiles of intensities."""


@dataclass(frozen=True, eq=False)
class PropertyRanges:
    """Smallest and largest value of every property over the training scans; nothing of a patient.

    Args:
        names: Names of the properties, sorted, see :func:`measure_properties`.
        limits: Smallest and largest value of each, ``(P, 2)``.
        planes: Planes of the slices of training, sorted.
        modalities: Modalities of training, sorted.
    """

    names: tuple[str, ...]
    limits: Array
    planes: tuple[str, ...]
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, scans: Sequence[ScanProperties]) -> PropertyRanges | None:
        """Returns the ranges over training scans; ``None`` without any. A property counts where all scans have it."""
        if not scans:
            return None
        names = tuple(sorted(set.intersection(*(set(scan.numbers) for scan in scans))))
        values = np.asarray([[scan.numbers[name] for name in names] for scan in scans], dtype=np.float64)
        limits = np.stack([values.min(axis=0), values.max(axis=0)], axis=1).reshape(len(names), 2)
        return cls(names, limits, *(_named(getattr(scan, kind) for scan in scans) for kind in ("plane", "modality")))

    @classmethod
    def merge(cls, parts: Sequence[PropertyRanges | None]) -> PropertyRanges | None:
        """Returns the ranges that hold those of several banks; ``None`` where one of them has none."""
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        tables = [dict(zip(part.names, part.limits.tolist(), strict=True)) for part in known]
        names = tuple(sorted(set.intersection(*map(set, tables))))
        limits = [[min(table[name][0] for table in tables), max(table[name][1] for table in tables)] for name in names]
        return cls(
            names,
            np.asarray(limits, dtype=np.float64).reshape(len(names), 2),
            _named(plane for part in known for plane in part.planes),
            _named(modality for part in known for modality in part.modalities),
        )

    def left_by(self, scan: ScanProperties) -> list[str]:
        """Returns a phrase for each property of a scan that lies outside training, the farthest first.

        A number may lie :data:`WIDENING` of the range's width beyond either end, and :data:`SLACK`.
        """
        phrases = []
        for word, given, known in (("modality", scan.modality, self.modalities), ("plane", scan.plane, self.planes)):
            if given and known and given not in known:
                phrases.append(f"{word} {given}, training {' and '.join(known)}")
        far = []
        for name, (low, high) in zip(self.names, self.limits.tolist(), strict=True):
            value = scan.numbers.get(name)
            if value is None:
                continue
            beyond, slack = max(low - value, value - high), WIDENING * (high - low) + self._slack(name)
            if beyond > slack:
                far.append((beyond / max(slack, 1e-12), self._phrase(name, value, low, high, scan)))
        return phrases + [phrase for _, phrase in sorted(far, reverse=True)]

    def _slack(self, name: str) -> float:
        """How far beyond both ends a property may lie, whatever the width of its range."""
        kind, _, which = name.partition("_")
        if kind in QUANTILES:
            same = [self.names.index(name) for name in self.names if name in {f"{end}_{which}" for end in QUANTILES}]
            return SLACK * float(np.ptp(self.limits[same]))
        return TILT_SLACK if kind == "tilt" else SLACK * float(np.abs(self.limits[self.names.index(name)]).max())

    def _phrase(self, name: str, value: float, low: float, high: float, scan: ScanProperties) -> str:
        """A property of a scan beside its range, such as ``slice thickness 7.7 mm, training 1 to 1.2 mm``."""
        kind, _, which = name.partition("_")
        unit = {"spacing": " mm", "extent": " mm" if which in "xyz" else " pixels", "tilt": " degrees"}.get(kind, "")
        words = {"tilt": "tilt of the axes", "noise": "noise"} | LEVELS
        text = words.get(kind) or f"{kind} {WAYS[which]}"
        if kind in LEVELS and f"{kind}_1" in self.names:
            text += f" of channel {int(which) + 1}"
        if kind == "spacing":
            others = [scan.numbers.get(f"spacing_{axis}", value) for axis in "xyz" if axis != which]
            thick = value >= THICK * max(others)
            text = "slice thickness" if thick else f"voxel size {WAYS[which]}"
        known = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        return f"{text} {value:.3g}{unit}, training {known}{unit}"

    def content(self) -> dict[str, Any]:
        """Returns the arrays of a bank's file."""
        texts = {"names": self.names, "planes": self.planes, "modalities": self.modalities}
        arrays: dict[str, Any] = {f"property_{name}": np.asarray(value, dtype=np.str_) for name, value in texts.items()}
        return arrays | {"property_limits": self.limits}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> PropertyRanges | None:
        """Returns the ranges in the arrays of a bank's file; ``None`` where these arrays are missing or empty.

        Raises:
            BankError: When they are no ranges.
        """
        kinds = ("names", "planes", "modalities")
        if not any(np.size(content.get(f"property_{name}", ())) for name in (*kinds, "limits")):
            return None
        texts = [tuple(content[f"property_{name}"].tolist()) for name in kinds]
        limits = content["property_limits"]
        check_ranges(texts[0], limits.tolist(), texts[1], texts[2])
        return cls(texts[0], limits, texts[1], texts[2])


def _named(values: Iterable[str]) -> tuple[str, ...]:
    """The values that are not empty, sorted, each once."""
    return tuple(sorted({value for value in values if value}))
