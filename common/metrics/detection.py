"""How well scores tell out-of-distribution scans from others; higher scores mean more abnormal, positive means OOD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve


def detection_metrics(known: ArrayLike, strange: ArrayLike, threshold: float) -> dict[str, float]:
    """Returns AUC, FPR at 95 % TPR, and accuracy, sensitivity and specificity at a threshold.

    Args:
        known: scores of in-distribution scans.
        strange: scores of out-of-distribution scans, the positive class.
        threshold: a scan is called OOD above it.

    Returns:
        ``auc``, ``accuracy``, ``sensitivity``, ``specificity``, ``fpr_at_95_tpr``, all in [0, 1].

    Example:
        >>> detection_metrics([0.1, 0.2, 0.6], [0.5, 0.9], 0.4)["sensitivity"]
        1.0
    """
    negative, positive = np.asarray(known, dtype=float), np.asarray(strange, dtype=float)
    truth = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    scores = np.r_[negative, positive]
    false_rates, true_rates, _ = roc_curve(truth, scores, drop_intermediate=False)
    return {
        "auc": float(roc_auc_score(truth, scores)),
        "accuracy": float(((scores > threshold) == truth).mean()),
        "sensitivity": float((positive > threshold).mean()),
        "specificity": float((negative <= threshold).mean()),
        "fpr_at_95_tpr": float(false_rates[np.argmax(true_rates >= 0.95)]),
    }


def detection_report(
    known: Sequence[float], strange: Mapping[str, Sequence[float]], threshold: float
) -> dict[str, dict[str, float | str]]:
    """Returns :func:`detection_metrics` for every out-of-distribution folder, pooled, and for the worst folder by AUC.

    Args:
        known: scores of in-distribution scans.
        strange: folder -> scores.
        threshold: a scan is called OOD above it.

    Returns:
        folder -> metrics, ``pooled`` -> metrics, ``worst`` -> metrics and ``folder``; empty without strange scans.
    """
    report: dict[str, dict[str, float | str]] = {
        folder: dict(detection_metrics(known, scores, threshold)) for folder, scores in strange.items()
    }
    if report:
        worst = min(report, key=lambda folder: float(report[folder]["auc"]))
        pooled = np.concatenate([np.asarray(scores, dtype=float) for scores in strange.values()])
        report["worst"] = {"folder": worst, **report[worst]}
        report["pooled"] = dict(detection_metrics(known, pooled, threshold))
    return report
