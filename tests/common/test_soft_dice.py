import pytest
import torch
from torch.testing import assert_close

from common.errors import ConfigError
from common.metrics.soft_dice import SoftDice, pooled_soft_dice, soft_dice_sums


def test_values_equal_a_loop_over_images_and_classes():
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(2, 3, 4, 3, 5, generator=generator).softmax(1)
    label = torch.randint(0, 3, (2, 1, 4, 3, 5), generator=generator, dtype=torch.uint8)
    dice = pooled_soft_dice(soft_dice_sums(probability, label))
    for c, value in enumerate(dice, start=1):
        shared = predicted = truth = 0.0
        for b in range(2):
            y = (label[b, 0] == c).float()
            shared += float((probability[b, c] * y).sum())
            predicted, truth = predicted + float(probability[b, c].sum()), truth + float(y.sum())
        assert float(value) == pytest.approx(2 * shared / (predicted + truth), rel=1e-6)


def test_sure_prediction_gives_the_ordinary_dice():
    label = torch.tensor([[[0, 1, 1, 2]]])
    predicted = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]]), 3).movedim(-1, 1).float()
    assert_close(pooled_soft_dice(soft_dice_sums(predicted, label)), torch.tensor([2 / 3, 2 / 3]).double())


def test_false_positive_costs_in_an_image_without_the_class_too():
    label = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]]])
    clean = torch.nn.functional.one_hot(label[:, 0], 2).movedim(-1, 1).float()
    wrong = clean.clone()
    wrong[1] = torch.tensor([[1.0, 0, 1, 1], [0, 1, 0, 0]])
    assert float(pooled_soft_dice(soft_dice_sums(clean, label))) == 1
    assert float(pooled_soft_dice(soft_dice_sums(wrong, label))) == pytest.approx(2 * 2 / (3 + 2))


def test_class_of_no_image_has_no_value_and_no_part_in_the_mean():
    metric, label = SoftDice(), torch.tensor([[[0, 1, 1, 0]]])
    probability = torch.full((1, 3, 4), 1 / 3)
    metric(probability, label)
    # A list, as engines give decollated images.
    metric([torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])], [label[0]])
    assert pooled_soft_dice(soft_dice_sums(probability, label))[1].isnan()
    assert float(metric.aggregate()) == pytest.approx(2 * (2 / 3 + 2) / (4 / 3 + 2 + 4))


def test_labels_without_foreground_give_zero():
    metric = SoftDice()
    metric(torch.full((1, 3, 4), 1 / 3), torch.zeros(1, 1, 4))
    assert float(metric.aggregate()) == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"y has the shape \(1, 4\) beside y_pred \(1, 3, 4\)"):
        soft_dice_sums(torch.zeros(1, 3, 4), torch.zeros(1, 4))


def test_channels_of_their_own_are_all_foreground():
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(2, 2, 4, 3, generator=generator)
    truth = (torch.rand(2, 2, 4, 3, generator=generator) > 0.6).float()
    metric = SoftDice()
    for image in range(2):
        metric(probability[image : image + 1], truth[image : image + 1])
    each = [2 * (probability[:, k] * truth[:, k]).sum() / (probability[:, k] + truth[:, k]).sum() for k in range(2)]
    assert float(metric.aggregate()) == pytest.approx(float(sum(each) / 2), rel=1e-6)
    # A single channel of sigmoid is a class, not the background.
    alone = pooled_soft_dice(soft_dice_sums(probability[:, :1], truth[:, :1]))
    assert_close(alone, each[0].double().reshape(1), rtol=1e-6, atol=0)
