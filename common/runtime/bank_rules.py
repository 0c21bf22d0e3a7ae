"""Checks what holds for every signature bank, with the standard library only: the archive tool does not have numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..errors import BankError, ConfigError

MAX_C = 10.0
"""Largest C: a threshold so many standard deviations above the mean calls next to nothing out-of-distribution."""


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


def check_norms(signatures: Iterable[Sequence[float]], num_layers: int) -> None:
    """Makes sure that no signature is longer than signatures can be: one that lies far away lifts the threshold.

    Args:
        signatures: Signatures of the training cases, one row of numbers for each.
        num_layers: How many layers stand side by side in a signature, each of norm 1; with 0, nothing is checked.

    Raises:
        BankError: When a signature is longer.
    """
    limit = math.sqrt(num_layers) * (1.0 + 1e-6)
    if num_layers and not all(math.hypot(*row) <= limit for row in signatures):
        raise BankError(f"a signature is longer than those of {num_layers} layer(s), of norm 1 each, can be")
