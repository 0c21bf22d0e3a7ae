"""Makes generators that depend on a seed and a step alone."""

from __future__ import annotations

import numpy as np
import torch


def step_generator(seed: int, *step: int) -> torch.Generator:
    """Returns a generator for a step, so that a resumed run draws what an uninterrupted one would.

    Args:
        seed: Seed of the run, at least 0.
        *step: Numbers that name the step, at least 0 each, such as epoch, iteration and rank.

    Returns:
        A generator on the CPU, so that the same seed gives the same numbers on every device.

    Example:
        >>> torch.rand(2, generator=step_generator(0, 1, 5)).tolist() == torch.rand(
        ...     2, generator=step_generator(0, 1, 5)
        ... ).tolist()
        True
    """
    state = np.random.SeedSequence([seed, *step]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
