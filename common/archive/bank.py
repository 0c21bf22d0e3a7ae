"""Reads a signature bank as bytes, with the standard library only: its numbers must imply its threshold."""

from __future__ import annotations

import ast
import math
import re
import struct
from dataclasses import dataclass
from math import prod

from ..runtime.bank_rules import check_norms, implied_threshold
from .layout import NUMPY
from .tensors import DAMAGED, read_stored, refuse

FIELDS = frozenset({
    "c", "distance", "divisor", "layers", "leave_one_out", "overlap", "per_voxel", "precision", "preprocessing_digest",
    "roi_size", "signatures", "threshold", "version", "weights_digest",
})  # fmt: skip
"""Arrays of a bank, as ``SignatureBank.save`` writes them."""

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

    def text(self) -> str:
        """One text."""
        if not self.kind.startswith("<U") or self.shape:
            raise ValueError(f"an array of type {self.kind!r} and shape {self.shape} has to hold a text")
        return self.content.decode("utf-32-le").rstrip("\0")


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
        if arrays.keys() != FIELDS:
            refuse(where, f"it has other arrays than a bank, {sorted(arrays.keys() ^ FIELDS)[:1]}")
        _check_threshold(arrays)
        return arrays["weights_digest"].text()
    except DAMAGED as error:
        refuse(where, str(error) or type(error).__name__, error)


def _check_threshold(arrays: dict[str, _Array]) -> None:
    """Makes sure that the threshold follows from the distances, and those from the signatures."""
    distances = arrays["leave_one_out"].numbers(1)
    (c,), (threshold,) = (arrays[name].numbers(0) for name in ("c", "threshold"))
    values = arrays["signatures"].numbers(2)
    count, width = arrays["signatures"].shape
    if count != len(distances) or count < 2 or not width:
        raise ValueError(f"{count} signatures of length {width} and {len(distances)} distances imply no threshold")
    rows = [values[start : start + width] for start in range(0, count * width, width)]
    check_norms(rows, prod(arrays["layers"].shape))
    if not math.isclose(threshold, implied_threshold(distances, c), rel_tol=1e-6):
        raise ValueError(f"threshold {threshold:.9g} does not follow from its distances")
    if arrays["distance"].text() == "nearest" and not all(map(_is_close, distances, _nearest(rows))):
        raise ValueError("its distances do not follow from its signatures")


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
