"""Class weights of given sums: their formulas, and what must hold in the limits."""

import math

import pytest
import torch
from torch.testing import assert_close

from common.class_weights import (
    CLASS_WEIGHTS,
    ClassStatistics,
    ConfidenceDifficultyWeight,
    ConfidenceDistributionWeight,
    DifficultyWeight,
    DistributionWeight,
    class_dice,
    distribution_weight,
    learning_terms,
    limit_weight,
    loss_weight,
    make_class_weight,
    scale_weight,
)
from common.errors import ConfigError

CLASSES = 3


def statistics_of(**sums):
    """Statistics of the given sums, zeros for the others."""
    rows = [torch.tensor(sums.get(name, [0.0] * CLASSES), dtype=torch.float64) for name in ClassStatistics._fields]
    return ClassStatistics(*rows)


class TestDistribution:
    def test_check_value_of_the_method(self):
        assert_close(distribution_weight(torch.tensor([1000, 100, 10])), torch.tensor([0.0, 0.5, 1.0]))

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 3e5])
    def test_shares_and_counts_give_the_same(self, scale):
        ratio = torch.tensor([1000.0, 100.0, 10.0], dtype=torch.float64) * scale
        expected = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        assert_close(distribution_weight(ratio), expected, rtol=0, atol=1e-12)

    def test_balanced_classes_weigh_one(self):
        assert_close(distribution_weight(torch.tensor([7, 7, 7, 7])), torch.ones(4))

    def test_class_without_voxels_counts_as_one_voxel(self):
        assert_close(distribution_weight(torch.tensor([100, 10, 0])), distribution_weight(torch.tensor([100, 10, 1])))
        assert_close(distribution_weight(torch.tensor([0, 0])), torch.ones(2))

    def test_class_that_no_voxel_shares_counts_as_the_rarest(self):
        assert_close(distribution_weight(torch.tensor([0.9, 0.1, 0.0])), torch.tensor([0.0, 1.0, 1.0]))
        expected = distribution_weight(torch.tensor([0.9, 0.07, 0.03, 0.03]))
        assert_close(distribution_weight(torch.tensor([0.9, 0.07, 0.03, 0.0])), expected)

    def test_counts_of_several_axes_are_refused(self):
        with pytest.raises(ConfigError, match=r"counts has shape \(2, 2\); expected is one number for each class"):
            distribution_weight(torch.ones(2, 2))

    def test_starts_from_the_labeled_set_in_shares(self):
        """A set of a billion voxels must not drown the batches that follow."""
        counts = torch.tensor([900, 90, 10])
        few, many = DistributionWeight(3, counts), DistributionWeight(3, counts * 1_000_000)
        assert_close(few.weight, distribution_weight(counts), rtol=0, atol=1e-6)
        batch = statistics_of(pseudo=[10.0, 10, 980])
        assert_close(few.update(batch), many.update(batch), rtol=0, atol=1e-6)
        assert_close(few.shares, torch.tensor([0.891 + 1e-4, 0.0891 + 1e-4, 0.0099 + 0.0098], dtype=torch.float64))

    def test_batch_without_pseudo_labels_changes_nothing(self):
        weight = DistributionWeight(3, torch.tensor([900, 90, 10]))
        before = weight.weight.clone()
        assert_close(weight.update(statistics_of(truth=[1.0, 1, 1])), before, rtol=0, atol=0)


def test_one_voxel_of_a_class_is_enough_for_its_confidence():
    weight = ConfidenceDifficultyWeight(2)
    rows = torch.tensor([[9, 1], [9, 1], [9, 1], [8.1, 0.25], [9, 1]], dtype=torch.float64)
    weight.update(ClassStatistics(*rows))
    assert_close(weight.state_dict()["certainty.confidence"], torch.tensor([0.9, 0.25], dtype=torch.float64))


class TestDifficulty:
    def test_both_learning_terms_are_never_negative(self):
        dice, before = torch.tensor([0.5, 0.2, 0.4]), torch.tensor([0.2, 0.5, 0.4])
        learned, unlearned = learning_terms(dice, before)
        assert_close(learned, torch.tensor([0.3 * math.log(2.5), 0, 0]))
        assert_close(unlearned, torch.tensor([0, 0.3 * math.log(2.5), 0]))

    def test_absent_class_keeps_what_it_knew(self):
        weight = ConfidenceDifficultyWeight(3)
        weight.update(
            statistics_of(truth=[5.0, 4, 4], predicted=[5.0, 4, 4], overlap=[4.0, 3, 2], confidence=[4.0, 3, 2])
        )
        kept = {name: getattr(weight, name).clone() for name in ("dice", "learned", "unlearned")}
        confidence = weight.certainty.confidence.clone()
        weight.update(
            statistics_of(truth=[9.0, 4, 0], predicted=[5.0, 4, 4], overlap=[5.0, 1, 0], confidence=[5.0, 1, 0])
        )
        for name, before in kept.items():
            assert getattr(weight, name)[2] == before[2], name
            assert getattr(weight, name)[1] != before[1], name
        assert weight.certainty.confidence[2] == confidence[2]

    def test_missed_class_has_a_small_dice_and_not_zero(self):
        statistics = statistics_of(truth=[5.0, 4, 0], predicted=[9.0, 0, 0], overlap=[5.0, 0, 0])
        assert_close(class_dice(statistics), torch.tensor([10 / 14, 1e-8, 1e-8], dtype=torch.float64))

    def test_class_that_is_unlearned_weighs_more(self):
        weight = DifficultyWeight(2)
        for overlap in (6.0, 8, 9):
            weight.update(_two_classes(overlap, overlap))
        for overlap in (7.0, 5, 3):
            last = weight.update(_two_classes(9.0, overlap))
        assert last[1] > 2 * last[0]


def _two_classes(first, second):
    rows = [[10.0, 10], [10.0, 10], [first, second], [first, second], [0.0, 0]]
    return ClassStatistics(*(torch.tensor(row, dtype=torch.float64) for row in rows))


EXTREMES = {
    "absent": ([12.0, 0, 0], [12.0, 0, 0], [12.0, 0, 0]),
    "missed": ([6.0, 4, 2], [12.0, 0, 0], [6.0, 0, 0]),
    "perfect": ([6.0, 4, 2], [6.0, 4, 2], [6.0, 4, 2]),
    "everything wrong": ([6.0, 6, 0], [0.0, 0, 12], [0.0, 0, 0]),
    "nothing at all": ([0.0, 0, 0], [0.0, 0, 0], [0.0, 0, 0]),
}


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
@pytest.mark.parametrize("kind", EXTREMES)
def test_weights_stay_finite_in_the_extremes(name, kind):
    truth, predicted, overlap = EXTREMES[kind]
    weight = make_class_weight(name, CLASSES)
    for _ in range(600):
        values = weight.update(
            statistics_of(truth=truth, predicted=predicted, overlap=overlap, confidence=overlap, pseudo=predicted)
        )
        assert values.isfinite().all()
        assert (values >= 0).all()
    assert weight.loss_weight().isfinite().all()
    assert weight.loss_weight().max() == pytest.approx(1 if name == "none" else CLASSES)


class TestScale:
    def test_losses_take_a_maximum_of_the_number_of_classes(self):
        assert_close(loss_weight(torch.tensor([0.0, 0.5, 0.25])), torch.tensor([0.0, 3.0, 1.5]))
        assert_close(scale_weight(torch.tensor([0.0, 0.5, 0.25])), torch.tensor([0.0, 1.0, 0.5]))

    def test_all_zero_counts_as_all_one(self):
        assert_close(scale_weight(torch.zeros(3)), torch.ones(3))
        assert_close(loss_weight(torch.zeros(3)), loss_weight(torch.ones(3)))

    def test_limited_weights_sum_to_the_number_of_classes(self):
        limited = limit_weight(loss_weight(torch.tensor([0.0, 0.5, 1.0])), min_weight=0.25)
        assert_close(limited, torch.tensor([0.25, 0.5, 1.0]) * 3 / 1.75)
        assert_close(limit_weight(torch.ones(4)), torch.ones(4))
        given = torch.tensor([0.0, 1.5, 3.0])
        assert_close(limit_weight(given, min_weight=0.0, weight_scale="maximum"), given)


def test_unknown_weight_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="class weight 'disw' does not exist; accepted are none, DisW, DifW, CDifW"):
        make_class_weight("disw", 3)


def test_momentum_is_that_of_the_shares():
    statistics = statistics_of(truth=[4.0, 4, 4], confidence=[2.0, 2.0, 2.0], pseudo=[100.0, 10, 1])
    plain = DistributionWeight(3, torch.tensor([10, 10, 10]), momentum=0.0)
    weighted = ConfidenceDistributionWeight(3, torch.tensor([10, 10, 10]), beta=0.0, momentum=0.0)
    assert_close(weighted.update(statistics), plain.update(statistics))
    assert_close(plain.weight, torch.tensor([0.0, 0.5, 1.0]), atol=1e-6, rtol=0, check_dtype=False)


def test_confidence_multiplies_the_distribution():
    """A class of which the network is sure weighs less."""
    weight = ConfidenceDistributionWeight(3, torch.tensor([10, 10, 10]))
    for _ in range(400):
        last = weight.update(statistics_of(truth=[4.0, 4, 4], confidence=[3.96, 2.0, 0.0], pseudo=[10.0, 10, 10]))
    expected = [(0.02 / 1.01) ** 0.2, (0.51 / 1.01) ** 0.2, 1.0]
    assert_close(last, torch.tensor(expected), rtol=1e-2, atol=0)
