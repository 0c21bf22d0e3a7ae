"""Draws the mined patches that are trained on (Gao and Xu, section 3.2)."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError


def draw_selection(num_ood: int, fraction: float, *, seed: int) -> list[int]:
    """Returns the numbers of ``round(fraction * num_ood)`` patches drawn without replacement, in rising order.

    Larger fractions of the same seed hold the smaller ones, so that a sweep adds patches and exchanges none.

    Args:
        num_ood: Number of out-of-distribution patches to draw from, at least 0.
        fraction: Fraction of them that is drawn, in [0, 1].
        seed: Seed of the draw, a whole number from 0.

    Raises:
        ConfigError: When ``fraction`` is not in [0, 1].

    Example:
        >>> draw_selection(10, 0.3, seed=0)
        [2, 4, 6]
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction of the out-of-distribution patches is {fraction}; accepted is 0 to 1")
    order = np.random.default_rng(seed).permutation(num_ood)
    return sorted(order[: round(fraction * num_ood)].tolist())
