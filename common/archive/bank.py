"""Reads a signature bank as bytes, with the standard library only: its numbers must imply its threshold."""

from __future__ import annotations

import ast
import math
import re
import struct
from collections.abc import Set
from dataclasses import dataclass
from math import prod

from ..runtime.bank_rules import CURVES, check_curve, check_layers, check_norms, check_ranges, implied_threshold
from ..runtime.conformal import RankedScores
from .layout import NUMPY
from .tensors import DAMAGED, read_stored, refuse

FIELDS = frozenset({
    "c", "distance", "divisor", "layers", "leave_one_out", "overlap", "per_voxel", "precision", "preprocessing_digest",
    "roi_size", "signatures", "threshold", "version", "weights_digest",
})  # fmt: skip
"""Arrays of a bank of version 1, and the first of those of later versions."""

MORE_FIELDS = frozenset({
    "calibration", "calibration_signatures", "calibration_weights", "false_alarm_rate", "layer_sizes", "layer_spreads",
    "property_limits", "property_modalities", "property_names", "property_planes", "quality_coverage", "quality_dice",
    "quality_edges", "quality_margins", "quality_oodm", "signature_form",
})  # fmt: skip
"""Further arrays of a bank of version 2."""

LATER_FIELDS = (
    frozenset({"sigmoid"}),
    frozenset({
        "may_be_empty", "uncertainty_coverage", "uncertainty_dice", "uncertainty_edges", "uncertainty_margins",
        "uncertainty_score",
    }),
)  # fmt: skip
"""Further arrays of banks of versions 3 and 4, the newest, as ``SignatureBank.save`` writes them."""

MAX_HEADER = 10_000
"""Most bytes of the header of an array, as for numpy itself."""

_PLAIN_TYPE = re.compile(r"([<|=][biuf])(\d)|(<U)(\d{1,4})")


@dataclass(frozen=True)
class _Array:
    kind: str
    shape: tuple[int, ...]
    content: bytes

    def numbers(self, *dims: int) -> list[float]:
        """All numbers, of double precision, of an array of so many dimensions."""
        if self.kind != "<f8" or len(self.shape) not in dims:
            raise ValueError(f"an array of type {self.kind!r} and shape {self.shape} has to hold numbers")
        return list(struct.unpack(f"<{prod(self.shape)}d", self.content))

    def rows(self) -> list[list[float]]:
        """All rows, of double precision, of an array of two dimensions."""
        values = self.numbers(2)
        count, width = self.shape
        return [values[start * width : (start + 1) * width] for start in range(count)]

    def whole(self, *dims: int) -> list[int]:
        """All whole numbers of an array of so many dimensions."""
        if self.kind != "<i8" or len(self.shape) not in dims:
            raise ValueError(f"an array of type {self.kind!r} and shape {self.shape} has to hold whole numbers")
        return list(struct.unpack(f"<{prod(self.shape)}q", self.content))

    def text(self) -> str:
        """One text."""
        if not self.kind.startswith("<U") or self.shape:
            raise ValueError(f"an array of type {self.kind!r} and shape {self.shape} has to hold a text")
        return self.content.decode("utf-32-le").rstrip("\0")

    def texts(self) -> list[str]:
        """All texts of an array of one dimension."""
        if not self.kind.startswith("<U") or len(self.shape) != 1:
            raise ValueError(f"an array of type {self.kind!r} and shape {self.shape} has to hold texts")
        size = 4 * int(self.kind[2:])
        parts = [self.content[start * size : (start + 1) * size] for start in range(self.shape[0])]
        return [part.decode("utf-32-le").rstrip("\0") for part in parts]


def bank_weights_digest(content: bytes, where: str) -> str:
    """Returns the digest of the weights that a signature bank was fitted to, after a check of its threshold.

    The distances themselves are computed again where the distance is ``nearest``; for the others, and for what else a
    bank says, :meth:`common.spectral.SignatureBank.load` does so.

    Args:
        content: Bytes of the bank's ``.npz`` file.
        where: Name of the file in messages.

    Raises:
        ArchiveError: When it holds anything but the plain arrays of a bank, is damaged, or contradicts itself.
    """
    try:
        arrays = {name.removesuffix(".npy"): _read_array(data) for name, data in read_stored(content, NUMPY).items()}
        version, fields = _version_of(arrays.keys())
        if arrays.keys() != fields:
            refuse(where, f"it has other arrays than a bank, {sorted(arrays.keys() ^ fields)[:1]}")
        if version != arrays["version"].whole(0)[0]:
            raise ValueError(f"it has the arrays of another version than {arrays['version'].whole(0)[0]}")
        _check_threshold(arrays)
        if version > 1:
            _check_parts(arrays)
        return arrays["weights_digest"].text()
    except DAMAGED as error:
        refuse(where, str(error) or type(error).__name__, error)


def _version_of(names: Set[str]) -> tuple[int, Set[str]]:
    """The newest version of a bank that arrays of such names come close to, and the names of all its arrays."""
    version, fields = 1, FIELDS
    for number, further in enumerate((MORE_FIELDS, *LATER_FIELDS), start=2):
        if names & further:
            version, fields = number, FIELDS.union(MORE_FIELDS, *LATER_FIELDS[: number - 2])
    return version, fields


def _check_threshold(arrays: dict[str, _Array]) -> None:
    """Makes sure that the threshold follows from the distances, and those from the signatures."""
    distances = arrays["leave_one_out"].numbers(1)
    (c,), (threshold,) = (arrays[name].numbers(0) for name in ("c", "threshold"))
    rows = arrays["signatures"].rows()
    if len(rows) != len(distances) or len(rows) < 2 or not rows[0]:
        width = len(rows[0]) if rows else 0
        raise ValueError(f"{len(rows)} signatures of length {width} and {len(distances)} distances imply no threshold")
    check_norms(rows, prod(arrays["layers"].shape), _form(arrays))
    nearest = arrays["distance"].text() == "nearest"
    implied, ranked = implied_threshold(distances, c), RankedScores(distances)
    if "calibration" in arrays:
        ranked = _check_calibration(arrays, rows if nearest else []) or ranked
        (rate,) = arrays["false_alarm_rate"].numbers(0)
        implied = implied if math.isnan(rate) else ranked.threshold(rate)
    if not math.isclose(threshold, implied, rel_tol=1e-6):
        raise ValueError(f"threshold {threshold:.9g} does not follow from its distances")
    if nearest and not all(map(_is_close, distances, _nearest(rows))):
        raise ValueError("its distances do not follow from its signatures")


def _form(arrays: dict[str, _Array]) -> str:
    """Form of the signatures; banks of version 1 know but one."""
    form = arrays["signature_form"].text() if "signature_form" in arrays else "unit"
    if form not in ("unit", "full"):
        raise ValueError(f"signatures of the form {form!r} do not exist")
    return form


def _check_calibration(arrays: dict[str, _Array], reference: list[list[float]]) -> RankedScores | None:
    """Makes sure that the scores of held-out cases follow from their signatures; ``None`` without such cases.

    Without reference signatures, that is not for this tool to compute.
    """
    scores, weights = (arrays[name].numbers(1) for name in ("calibration", "calibration_weights"))
    rows = arrays["calibration_signatures"].rows()
    if not len(scores) == len(weights) == len(rows):
        raise ValueError(f"{len(rows)} held-out signatures have {len(scores)} scores and {len(weights)} weights")
    if not rows:
        return None
    check_norms(rows, prod(arrays["layers"].shape), _form(arrays))
    if not all(math.isfinite(score) and score >= 0.0 for score in scores):
        raise ValueError("a score of its held-out cases is negative or not finite")
    if reference:
        distances = [min(math.dist(row, other) for other in reference) for row in rows]
        if len(rows[0]) != len(reference[0]) or not all(map(_is_close, scores, distances)):
            raise ValueError("the scores of its held-out cases do not follow from their signatures")
    return RankedScores(scores, weights)


def _check_parts(arrays: dict[str, _Array]) -> None:
    """Makes sure that the prediction of Dice, the ranges and the layers are such, where there are any."""
    for prefix, knots in CURVES.items():
        if f"{prefix}_{knots}" in arrays:
            curve = [arrays[f"{prefix}_{name}"].numbers(1) for name in (knots, "dice", "edges", "margins")]
            (coverage,) = arrays[f"{prefix}_coverage"].numbers(0)
            if any(curve):
                check_curve(curve[0], curve[1], curve[2], curve[3], coverage)
    names, planes, modalities = (arrays[f"property_{name}"].texts() for name in ("names", "planes", "modalities"))
    limits = arrays["property_limits"].rows()
    if names or limits or planes or modalities:
        check_ranges(names, limits, planes, modalities)
    sizes, spreads = arrays["layer_sizes"].whole(1), arrays["layer_spreads"].rows()
    if sizes or spreads:
        check_layers(sizes, spreads, arrays["signatures"].shape[1], prod(arrays["layers"].shape))


def _nearest(rows: list[list[float]]) -> list[float]:
    """Distance of every signature to the nearest other one."""
    nearest = [math.inf] * len(rows)
    for number, row in enumerate(rows):
        for other in range(number):
            distance = math.dist(row, rows[other])
            nearest[number], nearest[other] = min(nearest[number], distance), min(nearest[other], distance)
    return nearest


def _is_close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-12)


def _read_array(content: bytes) -> _Array:
    """An array in numpy's format; one of objects, which would be a pickle, is refused."""
    if content[:8] not in (b"\x93NUMPY\1\0", b"\x93NUMPY\2\0"):
        raise ValueError("a file in it is no array")
    width = 2 if content[6] == 1 else 4
    length = int.from_bytes(content[8 : 8 + width], "little")
    if length > MAX_HEADER:
        raise ValueError(f"an array in it has a header of {length} bytes")
    start = 8 + width + length
    header = ast.literal_eval(content[8 + width : start].decode("latin-1"))
    kind, shape = header["descr"], header["shape"]
    match = _PLAIN_TYPE.fullmatch(kind) if isinstance(kind, str) else None
    if match is None:
        raise ValueError(f"an array in it is of type {kind!r}")
    if header["fortran_order"] is not False or type(shape) is not tuple:
        raise ValueError("an array in it is not in row-major order")
    if not all(type(size) is int and 0 <= size < 2**31 for size in shape) or len(shape) > 2:
        raise ValueError(f"an array in it is of shape {shape!r}")
    size = 4 * int(match[4]) if match[3] else int(match[2])
    if len(content) - start != size * prod(shape):
        raise ValueError("an array in it has more or fewer bytes than it says")
    return _Array(kind, shape, content[start:])
