import pytest
import torch
from torch.testing import assert_close

from common.metrics.soft_dice import SoftDice, soft_dice


def test_values_equal_a_loop_over_images_and_classes():
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(2, 3, 4, 3, 5, generator=generator).softmax(1)
    label = torch.randint(0, 3, (2, 1, 4, 3, 5), generator=generator, dtype=torch.uint8)
    for b, values in enumerate(soft_dice(probability, label)):
        for c, value in enumerate(values, start=1):
            p, y = probability[b, c], (label[b, 0] == c).float()
            assert_close(value, 2 * (p * y).sum() / (p.sum() + y.sum()))


def test_sure_prediction_gives_the_ordinary_dice():
    label = torch.tensor([[[0, 1, 1, 2]]])
    predicted = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]]), 3).movedim(-1, 1).float()
    assert_close(soft_dice(predicted, label), torch.tensor([[2 / 3, 2 / 3]]))


def test_absent_class_has_no_value_and_no_part_in_the_mean():
    metric, label = SoftDice(), torch.tensor([[[0, 1, 1, 0]]])
    probability = torch.full((1, 3, 4), 1 / 3)
    metric(probability, label)
    # A list, as engines give decollated images.
    metric([torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])], [label[0]])
    assert soft_dice(probability, label)[0, 1].isnan()
    assert float(metric.aggregate()) == pytest.approx((4 / 3 / (4 / 3 + 2) + 1) / 2)


def test_labels_without_foreground_give_zero():
    metric = SoftDice()
    metric(torch.full((1, 3, 4), 1 / 3), torch.zeros(1, 1, 4))
    assert float(metric.aggregate()) == 0
