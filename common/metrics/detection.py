"""Measures how well scores tell out-of-distribution scans from others.

Higher scores mean more abnormal; the positive class is out-of-distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ..errors import ConfigError


def detection_metrics(in_distribution: ArrayLike, out_of_distribution: ArrayLike, threshold: float) -> dict[str, float]:
    """Returns AUC, FPR at 95 % TPR, and accuracy, sensitivity and specificity at a threshold.

    Args:
        in_distribution: Scores of in-distribution scans, ``(N,)``, at least one, all finite.
        out_of_distribution: Scores of out-of-distribution scans, ``(M,)``, the positive class, at least one, finite.
        threshold: Score above which a scan is called out-of-distribution.

    Returns:
        ``auc``, ``accuracy``, ``sensitivity``, ``specificity``, ``fpr_at_95_tpr``, all in [0, 1].

    Raises:
        ConfigError: When one of the two lists is empty or holds a score that is not finite.

    Example:
        >>> detection_metrics([0.1, 0.2, 0.6], [0.5, 0.9], 0.4)["sensitivity"]
        1.0
    """
    negative = _finite("in_distribution", in_distribution)
    positive = _finite("out_of_distribution", out_of_distribution)
    truth = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    everything = np.r_[negative, positive]
    false_rates, true_rates, _ = roc_curve(truth, everything, drop_intermediate=False)
    return {
        "auc": float(roc_auc_score(truth, everything)),
        "accuracy": float(((everything > threshold) == truth).mean()),
        "sensitivity": float((positive > threshold).mean()),
        "specificity": float((negative <= threshold).mean()),
        "fpr_at_95_tpr": float(false_rates[np.argmax(true_rates >= 0.95)]),
    }


def average_precision(in_distribution: ArrayLike, out_of_distribution: ArrayLike) -> float:
    """Returns AUPR, the area under the curve of precision over recall, as scikit-learn's average precision.

    It depends on how many out-of-distribution scans there are: by chance it is their share.

    Args:
        in_distribution: Scores of in-distribution scans, ``(N,)``, at least one, all finite.
        out_of_distribution: Scores of out-of-distribution scans, ``(M,)``, the positive class, at least one, finite.

    Raises:
        ConfigError: When one of the two lists is empty or holds a score that is not finite.
    """
    negative = _finite("in_distribution", in_distribution)
    positive = _finite("out_of_distribution", out_of_distribution)
    truth = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    return float(average_precision_score(truth, np.r_[negative, positive]))


def expected_performance_drop(
    in_distribution: ArrayLike,
    scores: ArrayLike,
    dice: ArrayLike,
    *,
    reference_dice: float,
    passed: float = 0.95,
) -> float:
    """Returns EPD, the Dice that is lost, on average, to scans that a detector lets pass; lower is better.

    Vasiliuk et al., *Redesigning Out-of-Distribution Detection on 3D Medical Images*, 2023
    (https://arxiv.org/abs/2308.07324), weigh each missed scan by what it costs: how far its quality lies below that of
    in-distribution scans. Their text was not at hand when this was written. Our reading: the threshold lets the share
    ``passed`` of the in-distribution scans pass. A scan that is called out-of-distribution costs nothing. Any other
    costs ``max(reference_dice - dice, 0)``. The mean is over all scans, those that are called out-of-distribution
    included. Without a detector it is the mean drop, with a perfect one 0.

    Args:
        in_distribution: Scores of in-distribution scans, ``(N,)``, at least one, all finite.
        scores: Scores of the scans that are judged, ``(M,)``, at least one, all finite; higher means more abnormal.
        dice: Dice of the same scans, ``(M,)``, in [0, 1].
        reference_dice: Mean Dice of in-distribution scans, in [0, 1].
        passed: Share of the in-distribution scans that pass, in (0, 1]. Default 0.95.

    Raises:
        ConfigError: When a list is empty or holds a value that is not finite.
    """
    judged, quality = _finite("scores", scores), _finite("dice", dice)
    # The smallest of their scores that lets at least that share pass.
    threshold = np.quantile(_finite("in_distribution", in_distribution), passed, method="inverted_cdf")
    lost = np.maximum(reference_dice - quality, 0.0)
    return float(np.where(judged > threshold, 0.0, lost).mean())


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """The values of an argument, of which there must be one, all finite."""
    found = np.asarray(values, dtype=float)
    if not found.size or not np.isfinite(found).all():
        raise ConfigError(f"{name} holds {found.size} value(s), {found}; accepted are one or more finite numbers")
    return found


def detection_report(
    in_distribution: Sequence[float], out_of_distribution: Mapping[str, Sequence[float]], threshold: float
) -> dict[str, dict[str, float | str]]:
    """Returns :func:`detection_metrics` for every out-of-distribution folder, pooled, and for the worst folder by AUC.

    Args:
        in_distribution: Scores of in-distribution scans, at least one, all finite; higher means more abnormal.
        out_of_distribution: Scores of out-of-distribution scans, at least one, all finite, by the name of their folder.
        threshold: Score above which a scan is called out-of-distribution.

    Returns:
        Metrics by the name of the folder; those of all scans as ``pooled``; those of the worst folder, with its name as
        ``folder``, as ``worst``. Empty without any such folder.
    """
    report: dict[str, dict[str, float | str]] = {
        folder: dict(detection_metrics(in_distribution, scores, threshold))
        for folder, scores in out_of_distribution.items()
    }
    if report:
        worst = min(report, key=lambda folder: float(report[folder]["auc"]))
        pooled = np.concatenate([np.asarray(scores, dtype=float) for scores in out_of_distribution.values()])
        report["worst"] = {"folder": worst, **report[worst]}
        report["pooled"] = dict(detection_metrics(in_distribution, pooled, threshold))
    return report
