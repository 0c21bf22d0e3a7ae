"""Measures how well scores tell out-of-distribution scans from others.

Higher scores mean more abnormal; the positive class is out-of-distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve

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
    negative, positive = (np.asarray(scores, dtype=float) for scores in (in_distribution, out_of_distribution))
    for name, scores in (("in_distribution", negative), ("out_of_distribution", positive)):
        if not scores.size or not np.isfinite(scores).all():
            raise ConfigError(f"{name} holds {scores.size} score(s), {scores}; accepted are one or more finite numbers")
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
