"""Finds how many mined patches to train on by the ratio of positive to negative ones (Gao and Xu, section 3.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

logger = logging.getLogger(__name__)

TARGET = 0.65
"""The paper's reference ratio, found on one data set (Lizard, Unet with VGG11): the best of a sweep was at 0.644."""


def positive_negative_ratio(num_positive: int, num_negative: int, num_ood: float = 0) -> float:
    """Returns ``|positive| / |negative|`` of a training set, equation 1.

    All numbers may be pixels in place of patches, see ``CandidateMiner``.

    Args:
        num_positive: Number of patches that hold any foreground pixel, at least 0.
        num_negative: Number of patches that hold any background pixel, at least 0; a patch may be both.
        num_ood: Number of out-of-distribution patches added, at least 0, each of which is negative only. Default 0.

    Returns:
        The ratio; infinite without any negative patch.

    Raises:
        ConfigError: When a number is negative.

    Example:
        >>> round(positive_negative_ratio(11216, 11599, 5810), 3)
        0.644
    """
    if min(num_positive, num_negative, num_ood) < 0:
        raise ConfigError(
            f"{num_positive} positive, {num_negative} negative, {num_ood} out-of-distribution patches: accepted are "
            "counts of at least 0"
        )
    negative = num_negative + num_ood
    return num_positive / negative if negative else math.inf


def fraction_grid(step: float = 0.1) -> list[float]:
    """Returns the fractions of the search space, from 0 to 1.

    Raises:
        ConfigError: When ``step`` is not in (0, 1].
    """
    if not 0 < step <= 1:
        raise ConfigError(f"fraction_step is {step}; accepted is 0 < fraction_step <= 1")
    # 0.1 has no exact binary form: six steps of it shall be 0.6.
    return [min(round(index * step, 12), 1.0) for index in range(math.ceil(round(1 / step, 9)) + 1)]


def estimate_ood_fraction(
    num_positive: int, num_negative: int, num_ood: float, *, target: float = TARGET, step: float = 0.1
) -> float:
    """Returns the fraction of out-of-distribution patches that brings the ratio closest to ``target``.

    Gao and Xu, equations 2 and 3.

    Args:
        num_positive: Number of positive patches, see :func:`positive_negative_ratio`.
        num_negative: Number of negative patches, see :func:`positive_negative_ratio`.
        num_ood: Number of out-of-distribution patches to draw from, at least 0.
        target: Wanted ratio, above 0. Default 0.65, as in the paper.
        step: Step of the search from 0 to 1, in (0, 1]. Default 0.1, as in the paper.

    Returns:
        The best fraction of the grid, the smallest of equally good ones; 0 without out-of-distribution patches.

    Raises:
        ConfigError: When a count is negative or ``step`` or ``target`` is not accepted.

    Example:
        >>> estimate_ood_fraction(11216, 11599, 9684)
        0.6
    """
    _check_target(target)

    def distance(fraction: float) -> float:
        ratio = positive_negative_ratio(num_positive, num_negative, fraction * num_ood)
        # Distances that are equal on paper differ in the last bits.
        return round(abs(ratio - target), 12)

    return min(fraction_grid(step), key=distance)


def exact_ood_fraction(num_positive: int, num_negative: int, num_ood: float, *, target: float = TARGET) -> float:
    """Returns ``clip((|positive| / target - |negative|) / |OoD|, 0, 1)``, where the ratio is the target.

    The paper searches a grid instead, see :func:`estimate_ood_fraction`.

    Args:
        num_positive: Number of positive patches, see :func:`positive_negative_ratio`.
        num_negative: Number of negative patches, see :func:`positive_negative_ratio`.
        num_ood: Number of out-of-distribution patches to draw from, at least 0.
        target: Wanted ratio, above 0. Default 0.65, as in the paper.

    Returns:
        The fraction, in [0, 1]; 0 without out-of-distribution patches.

    Raises:
        ConfigError: When a count is negative or ``target`` is not accepted.

    Example:
        >>> round(exact_ood_fraction(11216, 11599, 9684), 3)
        0.584
    """
    _check_target(target)
    positive_negative_ratio(num_positive, num_negative, num_ood)
    if num_ood == 0:
        return 0.0
    return min(max((num_positive / target - num_negative) / num_ood, 0.0), 1.0)


def tell_reach(report: Mapping[str, Any]) -> None:
    """Logs where the wanted ratio is out of reach: above that of the data set, or below that with all candidates.

    Args:
        report: What ``CandidateMiner.proportion`` returns.
    """
    target, unit = report["target"], report["unit"]
    if report["num_ood"] and report["fraction"] == 0 and report["pnr"] <= target:
        logger.warning(
            "the ratio of positive to negative %s is %.3f without any candidate, not above target_ratio %g, so none is "
            "drawn; set ood_fraction or a lower target_ratio, or empty_candidates where many images hold no foreground",
            unit, report["pnr"], target,
        )  # fmt: skip
    if report["fraction"] == 1 and report["pnr_selected"] > target:
        logger.info("these are all that there are: the ratio stays above target_ratio %g", target)


def _check_target(target: float) -> None:
    if not 0 < target < math.inf:
        raise ConfigError(f"target_ratio is {target}; accepted are positive numbers")
