"""Metrics that validation during training needs, attached to MONAI's engines."""

from __future__ import annotations

from ignite.metrics import Metric
from monai.handlers import IgniteMetricHandler, MeanDice, from_engine
from monai.metrics import CumulativeIterationMetric

from .soft_dice import SoftDice


def mean_metric(metric_fn: CumulativeIterationMetric, pred_key: str = "pred") -> Metric:
    """Returns the mean of a measure over all cases of a validation, between a prediction and ``label``.

    Args:
        metric_fn: The measure; higher means better.
        pred_key: What of the postprocessed output is measured. Default ``pred``.
    """
    return IgniteMetricHandler(metric_fn=metric_fn, output_transform=from_engine([pred_key, "label"]))


def soft_dice() -> Metric:
    """Returns the mean of :class:`SoftDice` between ``probability`` and ``label``."""
    return mean_metric(SoftDice(), "probability")


def mean_dice(num_classes: int | None = None, *, include_background: bool = False) -> Metric:
    """Returns MONAI's mean Dice between ``pred`` and ``label``.

    Args:
        num_classes: Number of classes of which both hold the numbers, background included; none where both have a
            channel for each. Default none.
        include_background: Whether the first class or channel counts. Default false.
    """
    output = from_engine(["pred", "label"])
    return MeanDice(include_background=include_background, num_classes=num_classes, output_transform=output)
