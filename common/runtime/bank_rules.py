"""Checks what holds for every signature bank, with the standard library only: the archive tool does not have numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..errors import BankError, ConfigError

MAX_C = 10.0
"""Largest C: a threshold so many standard deviations above the mean calls next to nothing out-of-distribution."""

LARGEST_LOGARITHM = 120.0
"""Largest logarithm of a singular value, either way: float32 ends near 89, a large image adds 12, a dead channel 16."""

PROPERTY = re.compile(
    r"spacing_[xyz]|extent_[wh]|(extent|sharpness)_[xyz]|sharpness_[wh]|(dark|median|bright)_\d{1,3}|noise|tilt"
)
"""Names of the properties that a bank may hold ranges of."""

CURVES = {"quality": "oodm", "uncertainty": "score"}
"""What a bank calls the scores at the knots of its predictions of Dice, by the prefix of their arrays."""

PLANES = frozenset({"axial", "coronal", "sagittal"})
MODALITIES = frozenset({"CT", "MR", "RGB"})


def implied_threshold(leave_one_out: Sequence[float], c: float) -> float:
    """Returns the threshold that training cases imply, ``mean + c * std`` of their OODM.

    Karimi and Gholipour 2023, equation 2.

    Args:
        leave_one_out: OODM of each training case against the others, 0 or more; at least one.
        c: How many standard deviations (of the population) above the mean, 0 to 10.

    Raises:
        ConfigError: When ``c`` is out of its range.
        BankError: When an OODM is negative or not finite.

    Example:
        >>> implied_threshold([1.0, 3.0], 2.5)
        4.5
    """
    if not 0.0 <= c <= MAX_C:
        raise ConfigError(f"c is {c}; accepted are 0 to {MAX_C:g}, the paper has 2.5: set threshold_c")
    if not all(math.isfinite(value) and value >= 0.0 for value in leave_one_out):
        raise BankError("an OODM of the training cases is negative or not finite: no threshold follows")
    count = len(leave_one_out)
    mean = math.fsum(value / count for value in leave_one_out)
    # Divided first, and without squares of their own, so that no sum overflows.
    return mean + c * math.hypot(*(value - mean for value in leave_one_out)) / math.sqrt(count)


def check_norms(signatures: Iterable[Sequence[float]], num_layers: int, form: str = "unit") -> None:
    """Makes sure that no signature is longer than signatures can be: one that lies far away lifts the threshold.

    Args:
        signatures: Signatures of the training cases, one row of numbers for each.
        num_layers: How many layers stand side by side in a signature, each of norm 1; with 0, nothing is checked.
        form: Form of the signatures. ``unit`` is the default; the logarithms of ``full`` have no norm, but an end.

    Raises:
        BankError: When a signature is longer.
    """
    if form != "unit":
        if not all(abs(value) <= LARGEST_LOGARITHM for row in signatures for value in row):
            raise BankError(f"a signature holds logarithms beyond {LARGEST_LOGARITHM:g}, which no features give")
        return
    limit = math.sqrt(num_layers) * (1.0 + 1e-6)
    if num_layers and not all(math.hypot(*row) <= limit for row in signatures):
        raise BankError(f"a signature is longer than those of {num_layers} layer(s), of norm 1 each, can be")


def check_curve(
    score: Sequence[float], dice: Sequence[float], edges: Sequence[float], margins: Sequence[float], coverage: float
) -> None:
    """Makes sure that a bank's prediction of quality is a curve that never rises, with margins that never fall.

    Args:
        score: Scores of the knots, such as OODM, rising, at least one.
        dice: Dice at the knots, in [0, 1], never rising.
        edges: Scores at which another margin begins, rising.
        margins: Margins of the lower bound, in [0, 1], never falling; one more than edges.
        coverage: Promised share of scans, above 0, below 1.

    Raises:
        BankError: When they are not.
    """
    rising = all(map(_is_rising, (score, edges)))
    shares = all(0.0 <= value <= 1.0 for value in (*dice, *margins)) and 0.0 < coverage < 1.0
    sizes = 0 < len(score) == len(dice) and len(margins) == len(edges) + 1
    monotone = all(a >= b for a, b in pairwise(dice)) and all(a <= b for a, b in pairwise(margins))
    if not (rising and shares and sizes and monotone):
        raise BankError("its prediction of Dice is no curve in [0, 1] that never rises, with margins that never fall")


def _is_rising(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values)) and all(a < b for a, b in pairwise(values))


def check_ranges(
    names: Sequence[str], limits: Sequence[Sequence[float]], planes: Sequence[str], modalities: Sequence[str]
) -> None:
    """Makes sure that a bank's ranges of properties are ranges, of properties that there are.

    Args:
        names: Names of the properties, sorted, each once.
        limits: Smallest and largest value of each.
        planes: Planes of slices, ``axial``, ``coronal`` or ``sagittal``.
        modalities: Modalities, ``CT``, ``MR`` or ``RGB``.

    Raises:
        BankError: When they are not; a report would show their texts.
    """
    unknown = [name for name in names if not PROPERTY.fullmatch(name)]
    unknown += sorted(set(planes) - PLANES) + sorted(set(modalities) - MODALITIES)
    if unknown or list(names) != sorted(set(names)):
        raise BankError(f"it has ranges of properties that there are not, or twice: {unknown[:1]}")
    ordered = all(len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] <= pair[1] for pair in limits)
    if len(limits) != len(names) or not ordered:
        raise BankError("a range of its properties does not reach from a smaller to a larger number")


def check_layers(sizes: Sequence[int], spreads: Sequence[Sequence[float]], width: int, num_layers: int) -> None:
    """Makes sure that the parts of a signature are those of its layers.

    Args:
        sizes: Numbers that each layer has in a signature.
        spreads: Mean and standard deviation of the distances in each layer.
        width: Length of a signature.
        num_layers: How many layers a signature has.

    Raises:
        BankError: When they are not.
    """
    plain = all(len(pair) == 2 and all(math.isfinite(value) and value >= 0.0 for value in pair) for pair in spreads)
    if not len(sizes) == len(spreads) == num_layers or min(sizes, default=0) < 1 or sum(sizes) != width or not plain:
        raise BankError(f"the parts of its layers do not make a signature of {num_layers} layer(s), {width} long")
