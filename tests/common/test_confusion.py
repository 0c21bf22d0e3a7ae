import math

import numpy as np
import pytest
import torch

from common.errors import LabelError
from common.metrics.confusion import (
    ConfusionMatrixd,
    all_background,
    class_dices,
    class_ious,
    confusion_matrix,
    describe_matrices,
    foreground_confusions,
    pooled_dice,
    pooled_iou,
)

CLASSES = 4


def images(number, seed=0, spatial=(7, 9)):
    """Pairs of prediction and truth; class 3 occurs in no truth, class 2 in one image alone."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(number):
        truth = rng.choice([0, 0, 0, 1, 2 if index == 0 else 1], spatial)
        predicted = np.where(rng.random(spatial) < 0.6, truth, rng.integers(0, CLASSES, spatial))
        pairs.append((torch.from_numpy(predicted), torch.from_numpy(truth)))
    return pairs


@pytest.mark.parametrize("spatial", [(7, 9), (4, 5, 3)], ids=["2d", "3d"])
def test_matrix_agrees_with_a_loop_over_pixels(spatial):
    for predicted, truth in images(3, spatial=spatial):
        expected = np.zeros((CLASSES, CLASSES), dtype=int)
        for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            expected[t, p] += 1
        np.testing.assert_array_equal(confusion_matrix(predicted, truth, CLASSES), expected)


def slow_pooled(predicted, truth):
    """IoU and Dice of all one-hot channels stretched into one list."""
    first = np.concatenate([(predicted == c).numpy().ravel() for c in range(CLASSES)])
    second = np.concatenate([(truth == c).numpy().ravel() for c in range(CLASSES)])
    both = (first & second).sum()
    return both / (first | second).sum(), 2 * both / (first.sum() + second.sum())


def test_pooled_measures_agree_with_one_hot_channels():
    for predicted, truth in images(4):
        matrix = confusion_matrix(predicted, truth, CLASSES)
        assert (pooled_iou(matrix), pooled_dice(matrix)) == pytest.approx(slow_pooled(predicted, truth))


def test_measures_of_classes_agree_with_their_masks():
    pairs = images(4)
    total = sum(confusion_matrix(predicted, truth, CLASSES) for predicted, truth in pairs)
    predicted, truth = (torch.stack(part).numpy() for part in zip(*pairs, strict=True))
    for number in (1, 2):
        found, real = predicted == number, truth == number
        assert class_ious(total)[number - 1] == pytest.approx((found & real).sum() / (found | real).sum())
        assert class_dices(total)[number - 1] == pytest.approx(2 * (found & real).sum() / (found.sum() + real.sum()))
    assert math.isnan(class_ious(total)[2])
    assert math.isnan(class_dices(total)[2]), "a class that the truth has not, though it is predicted"


@pytest.mark.parametrize("share", [0.5, 0.86, 1.0])
def test_constant_background_scores_what_its_share_tells(share):
    matrix = np.array([[round(1000 * share), 0], [0, 1000 - round(1000 * share)]])
    constant = all_background(matrix)
    assert pooled_iou(constant) == pytest.approx(share / (2 - share))
    assert pooled_dice(constant) == pytest.approx(share)
    assert class_ious(constant)[0] == 0 or share == 1
    assert constant.sum() == matrix.sum()


def test_confusions_count_pixels():
    matrix = np.array([[50, 3, 4], [5, 20, 6], [7, 8, 9]])
    assert foreground_confusions(matrix) == {
        "foreground_as_background": 12,
        "background_as_foreground": 7,
        "foreground_as_another_class": 14,
        "foreground": 55,
        "background": 57,
    }


def test_report_means_images_and_pools_classes():
    pairs = images(5)
    matrices = [confusion_matrix(predicted, truth, CLASSES) for predicted, truth in pairs]
    report = describe_matrices(matrices, ["a", "b", "c"])
    slow = np.mean([slow_pooled(*pair) for pair in pairs], axis=0)
    assert (report["iou_pooled"], report["dsc_pooled"]) == pytest.approx(tuple(slow))
    total = np.sum(matrices, axis=0)
    assert report["miou_foreground"] == pytest.approx(np.mean(class_ious(total)[:2]))
    assert report["dsc_foreground"] == pytest.approx(np.mean(class_dices(total)[:2]))
    assert report["per_class"]["b"]["iou"] == pytest.approx(class_ious(total)[1])
    assert report["images"] == 5
    background = np.mean([float((truth == 0).double().mean()) for _, truth in pairs])
    assert report["all_background"]["dsc_pooled"] == pytest.approx(background)
    assert report["all_background"]["miou_foreground"] == 0
    assert report["all_background"]["confusions"]["background_as_foreground"] == 0


def test_report_tells_false_alarms_in_images_without_foreground():
    clean, alarm, full = np.array([[9, 0], [0, 0]]), np.array([[8, 1], [0, 0]]), np.array([[5, 2], [1, 1]])
    report = describe_matrices([clean, alarm, alarm, full])
    assert (report["false_alarm"], report["empty_images"]) == (pytest.approx(2 / 3), 3)
    assert (report["all_background"]["false_alarm"], report["all_background"]["empty_images"]) == (0, 3)
    report = describe_matrices([full])
    assert np.isnan(report["false_alarm"])
    assert report["empty_images"] == 0


def test_case_gets_the_matrix_of_its_most_probable_classes():
    scores = torch.randn(3, 5, 6)
    truth = torch.randint(3, (5, 6))
    channels = torch.stack([truth == 1, truth == 2]).float()
    found = ConfusionMatrixd("pred")({"pred": scores, "label": channels})["confusion"]
    np.testing.assert_array_equal(found, confusion_matrix(scores.argmax(dim=0), truth, 3))
    # A data set may lack classes at the end.
    fewer = ConfusionMatrixd("pred")({"pred": scores, "label": channels[:1]})["confusion"]
    assert fewer.shape == (3, 3)
    assert fewer[2].sum() == 0
    assert fewer.sum() == 30
    assert "confusion" not in ConfusionMatrixd("pred")({"pred": scores})


@pytest.mark.parametrize(
    ("predicted", "truth", "text"),
    [
        ([0, CLASSES], [0, 0], rf"predicted holds class {CLASSES}; accepted are 0 to {CLASSES - 1}"),
        ([0, 0], [CLASSES, 0], rf"truth holds class {CLASSES}; accepted are 0 to {CLASSES - 1}"),
        ([0, 0], [-1, 0], r"truth holds class -1; accepted are 0"),
        ([0.0, math.nan], [0, 0], r"predicted holds class -\d+; accepted are 0"),
        ([0, 0], [[0]], r"predicted is of shape \(2,\), truth of \(1, 1\)"),
    ],
)
def test_index_that_would_be_counted_for_another_pair_is_refused(predicted, truth, text):
    with pytest.raises(LabelError, match=text):
        confusion_matrix(torch.tensor(predicted), torch.tensor(truth), CLASSES)


def test_image_without_pixels_has_no_counts():
    empty = torch.empty(0, dtype=torch.int64)
    np.testing.assert_array_equal(confusion_matrix(empty, empty, CLASSES), np.zeros((CLASSES, CLASSES)))
