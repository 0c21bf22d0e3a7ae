"""Draws the mined patches that are trained on (Gao and Xu, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError
from .scoring import rank_candidates

Selection = Literal["pruned", "top", "as_many", "all"]

KINDS = ("emptied", "candidate")
"""Kinds of candidates: patches whose foreground was removed, and patches of images without any."""


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
        raise ConfigError(f"ood_fraction is {fraction}; accepted is 0 to 1")
    order = np.random.default_rng(seed).permutation(num_ood)
    return sorted(order[: round(fraction * num_ood)].tolist())


def check_selection(selection: str, candidate_kinds: Sequence[str] | None = None) -> None:
    """Makes sure that a selection is one that there is, see :func:`select_candidates`.

    Args:
        selection: Name of the selection.
        candidate_kinds: Kinds of candidates that it is made from. Default all.

    Raises:
        ConfigError: When it is not accepted, or there is no such kind.
    """
    if selection not in get_args(Selection):
        raise ConfigError(f"selection is {selection!r}; accepted are {', '.join(get_args(Selection))}")
    if candidate_kinds is not None and (not candidate_kinds or not set(candidate_kinds) <= set(KINDS)):
        raise ConfigError(f"candidate_kinds is {candidate_kinds}; accepted are lists of {' and '.join(KINDS)}, or null")


def num_available(scores: Sequence[float], selection: Selection = "pruned") -> int:
    """Returns of how many candidates a fraction is taken, see :func:`select_candidates`."""
    check_selection(selection)
    return len(scores) if selection == "all" else sum(score > 0 for score in scores)


def select_candidates(
    scores: Sequence[float], fraction: float, *, selection: Selection = "pruned", seed: int = 0
) -> list[int]:
    """Returns the numbers of the candidates that are trained on, in rising order.

    Only ``pruned`` is the paper's. The others tell what mining adds: as many negatives at random are what to compare
    it with.

    Args:
        scores: Scores of all candidates, in [0, 1], see :func:`confusion_score`; those of 0 confuse nothing.
        fraction: Fraction of the candidates that confuse, or of all with ``all``, in [0, 1].
        selection: ``pruned``, the default: at random among those that confuse; ``top``: the most confusing ones;
            ``as_many``: equally many as ``pruned``, at random among all; ``all``: at random among all.
        seed: Seed of the draw, a whole number from 0. Default 0.

    Raises:
        ConfigError: When ``fraction`` is not in [0, 1], or there is no such selection.

    Example:
        >>> select_candidates([0.0, 0.2, 0.0, 0.7], 0.5, selection="top")
        [3]
    """
    confusing = [number for number, score in enumerate(scores) if score > 0]
    drawn = draw_selection(num_available(scores, selection), fraction, seed=seed)
    if selection == "pruned":
        return [confusing[number] for number in drawn]
    if selection == "top":
        return sorted(rank_candidates(scores)[: len(drawn)].tolist())
    if selection == "as_many":
        return sorted(np.random.default_rng(seed).permutation(len(scores))[: len(drawn)].tolist())
    return drawn
