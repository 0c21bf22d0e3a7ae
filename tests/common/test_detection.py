import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from common.errors import ConfigError
from common.metrics.detection import (
    average_precision,
    detection_metrics,
    detection_report,
    expected_performance_drop,
)
from common.metrics.statistics import spearman


def auc_by_pairs(known, strange):
    """The share of pairs in which the strange scan scores higher; ties count half."""
    return np.mean([(s > k) + 0.5 * (s == k) for s in strange for k in known])


def false_rate_by_thresholds(known, strange):
    """The lowest share of false alarms of all thresholds that find at least 95 % of the strange scans."""
    thresholds = [t for t in [*known, *strange] if np.mean([s >= t for s in strange]) >= 0.95]
    return min(np.mean([k >= t for k in known]) for t in thresholds)


@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_are_those_of_the_definitions(seed):
    rng = np.random.default_rng(seed)
    known, strange = rng.normal(0, 1, 17), rng.normal(1, 2, 40)
    metrics = detection_metrics(known, strange, 0.5)
    assert metrics["auc"] == pytest.approx(auc_by_pairs(known, strange), abs=1e-12)
    assert metrics["fpr_at_95_tpr"] == pytest.approx(false_rate_by_thresholds(known, strange), abs=1e-12)


def test_ties_between_known_and_strange_count_half():
    known, strange = [1.0, 2.0, 2.0, 3.0], [2.0, 3.0, 4.0]
    assert detection_metrics(known, strange, 2.0)["auc"] == pytest.approx(auc_by_pairs(known, strange), abs=1e-12)


def test_figures_of_a_case_worked_out_by_hand():
    # Both scans above 0.5 and one of the three below; 95 % of two strange scans are both, found from 0.5 on.
    assert detection_metrics([0.1, 0.2, 0.6], [0.5, 0.9], 0.4) == {
        "auc": pytest.approx(5 / 6),
        "accuracy": pytest.approx(4 / 5),
        "sensitivity": 1.0,
        "specificity": pytest.approx(2 / 3),
        "fpr_at_95_tpr": pytest.approx(1 / 3),
    }


def test_nineteen_of_twenty_strange_scans_are_95_percent():
    known = np.linspace(0, 0.9, 10)
    strange = [0.05, *np.linspace(2, 3, 19)]
    assert detection_metrics(known, strange, 1)["fpr_at_95_tpr"] == 0.0
    assert detection_metrics(known, [0.05, *strange], 1)["fpr_at_95_tpr"] == 0.9


def test_tied_scores_do_not_raise_the_false_alarms_at_95_percent():
    scores = np.arange(20.0)
    assert detection_metrics(scores, scores, 5)["fpr_at_95_tpr"] == pytest.approx(
        false_rate_by_thresholds(scores, scores)
    )


def test_score_at_the_threshold_is_not_ood():
    metrics = detection_metrics([1.0], [1.0], 1.0)
    assert (metrics["sensitivity"], metrics["specificity"], metrics["accuracy"]) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize(("strange", "auc"), [([4.0, 5.0], 1.0), ([-1.0, -2.0], 0.0)])
def test_limits_of_the_auc(strange, auc):
    metrics = detection_metrics([1.0, 2.0], strange, 3.0)
    assert (metrics["auc"], metrics["fpr_at_95_tpr"]) == (auc, 1.0 - auc)


def test_report_has_every_folder_the_worst_and_all_pooled():
    known, strange = [1.0, 2.0, 3.0], {"far": [9.0, 8.0], "near": [2.5, 0.5, 4.0], "middle": [2.5]}
    report = detection_report(known, strange, 2.0)
    for folder, scores in strange.items():
        assert report[folder] == detection_metrics(known, scores, 2.0)
    assert report["worst"] == {"folder": "near"} | report["near"]
    pooled = [score for scores in strange.values() for score in scores]
    assert report["pooled"] == detection_metrics(known, pooled, 2.0)
    assert report["pooled"]["auc"] == pytest.approx(auc_by_pairs(known, pooled))
    assert set(report) == {*strange, "worst", "pooled"}


def test_rank_correlation_is_that_of_the_ranks_of_pairs_without_nan():
    first, second = [3.0, 1.0, 2.0, np.nan, 2.0, 9.0], [1.0, 5.0, 2.0, 0.0, 3.0, np.nan]
    result = spearman(first, second)
    expected = np.corrcoef(rankdata([3, 1, 2, 2]), rankdata([1, 5, 2, 3]))[0, 1]
    assert (result["rho"], result["n"]) == (pytest.approx(expected), 4)
    assert 0 <= result["p"] <= 1


@pytest.mark.parametrize(
    ("first", "second", "pairs"), [([], [], 0), ([1], [2], 1), ([1, 1], [1, 2], 2), ([1, 2, np.nan], [3, np.nan, 4], 1)]
)
def test_rank_correlation_needs_two_different_values_on_either_side(first, second, pairs):
    assert spearman(first, second) == {"rho": None, "p": None, "n": pairs}


def test_report_without_strange_scans_is_empty():
    assert detection_report([1.0, 2.0], {}, 1.0) == {}


def test_average_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    known, strange = rng.normal(0, 1, 20), rng.normal(1, 1, 9)
    expected = average_precision_score(np.r_[np.zeros(20), np.ones(9)], np.r_[known, strange])
    assert average_precision(known, strange) == pytest.approx(expected)


def test_average_precision_worked_out_by_hand():
    # Ranked 0.9 (strange), 0.8 (known), 0.7 (strange): precision 1 at half the recall, 2/3 at all of it.
    assert average_precision([0.8, 0.1], [0.9, 0.7]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_drop_worked_out_by_hand():
    known = [0.0, 0.1, 0.2, 0.3]
    # All known scans pass up to 0.3. The scan at 0.9 is called strange; the others lose 0.4, 0 (it is better) and 0.2.
    drop = expected_performance_drop(known, [0.1, 0.2, 0.3, 0.9], [0.5, 0.95, 0.7, 0.0], reference_dice=0.9, passed=1.0)
    assert drop == pytest.approx((0.4 + 0 + 0.2 + 0) / 4)


def test_drop_of_half_of_the_known_scans_passing_has_a_lower_threshold():
    drop = expected_performance_drop([0.0, 0.1, 0.2, 0.3], [0.1, 0.2], [0.5, 0.4], reference_dice=0.9, passed=0.5)
    assert drop == pytest.approx(0.4 / 2)


def test_drop_is_none_with_a_perfect_detector_and_the_mean_without_one():
    known, dice = np.zeros(20), np.array([0.1, 0.5, 0.8])
    assert expected_performance_drop(known, [1, 1, 1], dice, reference_dice=0.9) == 0
    assert expected_performance_drop(known, [0, 0, 0], dice, reference_dice=0.9) == pytest.approx((0.8 + 0.4 + 0.1) / 3)


@pytest.mark.parametrize(
    ("known", "scores", "dice", "named"),
    [([], [1.0], [1.0], "in_distribution"), ([1.0], [np.nan], [1.0], "scores"), ([1.0], [1.0], [np.inf], "dice")],
)
def test_drop_without_values_names_what_is_missing(known, scores, dice, named):
    with pytest.raises(ConfigError, match=f"{named} holds .*finite"):
        expected_performance_drop(known, scores, dice, reference_dice=0.9)
