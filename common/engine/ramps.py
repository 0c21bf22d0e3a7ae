"""Lets the weight of a term rise in the course of a training."""

from __future__ import annotations

import math


def gaussian_rise(share: float, length: float = 1.0) -> float:
    """Returns ``exp(-5 * (1 - t) ** 2)``, which rises from near 0 to 1 as t does (Laine and Aila, ICLR 2017).

    Args:
        share: Share of the training that is done, in [0, 1].
        length: Share of the training after which t is 1, in [0, 1]. 1 by default; with 0, it is 1 from the start.

    Example:
        >>> round(gaussian_rise(0.1, 0.2), 4), gaussian_rise(0.6, 0.2)
        (0.2865, 1.0)
    """
    done = 1.0 if share >= length else share / length
    return math.exp(-5 * (1 - done) ** 2)
