"""Average precision and best Dice from counts, against scikit-learn and a search over all thresholds."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from common.denoising import PixelCurve, measure_scores
from common.denoising.localization import PatientScores, binary_dice


def pixels(number=5000, seed=0, share=0.05):
    rng = np.random.default_rng(seed)
    truth = rng.random(number) < share
    return np.abs(rng.normal(size=number) * 0.1 + 0.15 * truth).astype(np.float32), truth


def curve_of(score, truth, parts=1):
    curve = PixelCurve()
    for part in np.array_split(np.arange(len(score)), parts):
        curve.update(torch.tensor(score[part]), torch.tensor(truth[part]))
    return curve


def slow_best_dice(score, truth):
    found = [binary_dice(score >= threshold, truth) for threshold in np.unique(score)]
    return max(found), float(np.unique(score)[int(np.argmax(found))])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_scikit_learn(seed):
    score, truth = pixels(seed=seed)
    assert curve_of(score, truth, 7).average_precision() == pytest.approx(
        average_precision_score(truth, score), abs=1e-4
    )


def test_ties_agree_with_scikit_learn():
    rng = np.random.default_rng(5)
    score = rng.integers(0, 4, 300).astype(np.float32) / 4
    truth = rng.random(300) < 0.2 + 0.2 * score
    assert curve_of(score, truth, 3).average_precision() == pytest.approx(
        average_precision_score(truth, score), abs=1e-12
    )


def test_best_dice_agrees_with_a_search():
    score, truth = pixels(600)
    best, (dice, threshold) = curve_of(score, truth).best_dice(), slow_best_dice(score, truth)
    assert best.dice == pytest.approx(dice, abs=1e-3)
    assert best.threshold == pytest.approx(threshold, rel=1e-3)
    assert binary_dice(score >= best.threshold, truth) == pytest.approx(best.dice)


def test_parts_add_up():
    score, truth = pixels()
    whole, parts = curve_of(score, truth), curve_of(score, truth, 11)
    np.testing.assert_array_equal(whole.positives, parts.positives)
    assert whole.prevalence == truth.mean()


def test_a_perfect_score_has_all_of_both():
    truth = np.array([0, 1, 0, 1, 1], dtype=bool)
    curve = curve_of(truth.astype(np.float32), truth)
    assert (curve.average_precision(), curve.best_dice().dice) == (1, 1)


def test_a_constant_score_has_the_precision_of_the_prevalence():
    truth = np.array([0, 1, 0, 0], dtype=bool)
    assert curve_of(np.zeros(4, np.float32), truth).average_precision() == 0.25
    assert curve_of(np.full(4, 7, np.float32), truth).average_precision() == 0.25


def test_scores_beyond_the_bins_are_clipped():
    truth = np.array([1, 0, 0, 1], dtype=bool)
    assert curve_of(np.array([1e-30, 0, 0, 1e30], np.float32), truth).average_precision() == pytest.approx(0.75)


def test_without_positives_there_is_no_number():
    curve = curve_of(np.ones(3, np.float32), np.zeros(3, bool))
    assert math.isnan(curve.average_precision())
    assert math.isnan(curve.best_dice().dice)
    assert math.isnan(PixelCurve().prevalence)


def patients(predicted=True):
    """Two patients: a large part that is found, specks that are not, and one patient without anything."""
    score = torch.zeros(2, 3, 10, 10)
    truth = torch.zeros(2, 3, 10, 10, dtype=torch.uint8)
    truth[0, 1:, 2:6, 2:6] = 1
    score[0, 1:, 2:6, 2:5] = 0.5
    score[0, 0, 8, 8] = score[1, 2, 1, 1] = 0.75
    score += 0.01
    for number in range(2):
        classes = (score[number] > 0.3).to(torch.uint8) if predicted else None
        yield PatientScores(f"p{number}", score[number], truth[number], classes)


def test_small_components_are_removed_where_asked():
    report = measure_scores(patients, min_size=4)
    everything = list(patients())
    score, truth = (torch.stack([getattr(p, key) for p in everything]).numpy() for key in ("score", "truth"))
    assert report["average_precision"] == pytest.approx(
        average_precision_score(truth.ravel() > 0, score.ravel()), abs=1e-4
    )
    assert report["best_dice"] == pytest.approx(2 * 24 / (26 + 32))
    assert report["filtered"]["best_dice"] == pytest.approx(2 * 24 / (24 + 32))
    assert report["filtered"]["average_precision"] > report["average_precision"]
    assert "oracle" not in report["threshold_is"]
    assert "chosen by their labels" in report["threshold_is"]
    same = measure_scores(patients, min_size=0)
    assert same["filtered"]["best_dice"] == report["best_dice"]


def test_dice_is_per_patient_and_left_out_where_there_is_nothing():
    report = measure_scores(patients, min_size=4)
    found = report["segmentation"]["dice_per_patient"]
    assert found["n"] == 1
    assert found["mean"] == pytest.approx(2 * 24 / (25 + 32))
    assert math.isnan(found["values"]["p1"])
    assert report["segmentation"]["dice_pooled"] == pytest.approx(2 * 24 / (26 + 32)), (
        "the other's voxel counts as well"
    )
    assert report["segmentation"]["filtered"]["dice_per_patient"]["mean"] == pytest.approx(2 * 24 / (24 + 32))
    assert report["segmentation"]["per_class"]["1"]["mean"] == pytest.approx(2 * 24 / (25 + 32))
    assert "segmentation" not in measure_scores(lambda: patients(False), min_size=4)
