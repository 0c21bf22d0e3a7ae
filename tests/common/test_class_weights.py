"""Class weights against slow references written from their definitions, and what must hold in the limits."""

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
    class_statistics,
    distribution_weight,
    learning_terms,
    limit_weight,
    loss_weight,
    make_class_weight,
    scale_weight,
)
from common.errors import ConfigError

CLASSES = 3


def random_batch(seed, absent=()):
    """Softmax, label and pseudo label of two small volumes; classes of ``absent`` do not occur in the label."""
    generator = torch.Generator().manual_seed(seed)
    probability = (2 * torch.randn(2, CLASSES, 4, 5, 3, generator=generator)).softmax(1)
    label, pseudo = (torch.randint(0, CLASSES, (2, 1, 4, 5, 3), generator=generator) for _ in range(2))
    for name in absent:
        label[label == name] = 0
    return probability, label, pseudo


def reference_statistics(probability, label, pseudo):
    """Voxel by voxel."""
    sums = {name: [0.0] * CLASSES for name in ClassStatistics._fields}
    flat = probability.movedim(1, -1).reshape(-1, CLASSES)
    for voxel, truth in zip(flat.tolist(), label.flatten().tolist(), strict=True):
        best = voxel.index(max(voxel))
        sums["truth"][truth] += 1
        sums["predicted"][best] += 1
        sums["overlap"][truth] += best == truth
        sums["confidence"][truth] += voxel[truth]
    for value in pseudo.flatten().tolist():
        sums["pseudo"][value] += 1
    return sums


class Reference:
    """All four weights, class by class, in plain Python, from METHODS."""

    def __init__(self, counts):
        total = sum(max(count, 1) for count in counts)
        self.shares = [max(count, 1) / total for count in counts]
        self.d, self.q = [1e-8] * CLASSES, [0.0] * CLASSES
        self.l, self.u = [0.0] * CLASSES, [0.0] * CLASSES
        self.missed, self.i = [1.0] * CLASSES, [1.0] * CLASSES

    def update(self, sums):
        weights = {"DisW": self._distribution(sums), "DifW": self._difficulty(sums)}
        information = self._information(sums)
        weights["CDifW"] = [i**0.2 * w for i, w in zip(information, weights["DifW"], strict=True)]
        weights["CDisW"] = [i**0.2 * w for i, w in zip(information, weights["DisW"], strict=True)]
        return weights

    def _distribution(self, sums):
        total = sum(max(count, 1) for count in sums["pseudo"])
        self.shares = [
            0.99 * old + 0.01 * max(new, 1) / total for old, new in zip(self.shares, sums["pseudo"], strict=True)
        ]
        logs = [math.log(max(self.shares) / share) for share in self.shares]
        return [value / max(logs) for value in logs]

    def _difficulty(self, sums):
        weights = []
        for c in range(CLASSES):
            if sums["truth"][c]:
                d = max(2 * sums["overlap"][c] / (sums["truth"][c] + sums["predicted"][c]), 1e-8)
                change, ratio = d - self.d[c], math.log(d / self.d[c])
                self.l[c] = 0.98 * self.l[c] + 0.02 * max(change, 0) * ratio
                self.u[c] = 0.98 * self.u[c] + 0.02 * min(change, 0) * ratio
                self.d[c] = d
            self.missed[c] = 0.98 * self.missed[c] + 0.02 * (1 - self.d[c])
            weights.append(self.missed[c] * ((self.u[c] + 1e-8) / (self.l[c] + 1e-8)) ** 0.2)
        return weights

    def _information(self, sums):
        for c in range(CLASSES):
            if sums["truth"][c]:
                self.q[c] = sums["confidence"][c] / sums["truth"][c]
        largest = max(1 - q for q in self.q)
        for c in range(CLASSES):
            self.i[c] = 0.98 * self.i[c] + 0.02 * (1 - self.q[c] + 0.01) / (largest + 0.01)
        return self.i


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


def test_statistics_equal_those_of_a_loop_over_voxels():
    batch = random_batch(3)
    expected = reference_statistics(*batch)
    for name, values in class_statistics(*batch)._asdict().items():
        assert_close(values, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert class_statistics(*batch[:2]).pseudo.tolist() == [0, 0, 0]


def test_one_voxel_of_a_class_is_enough_for_its_confidence():
    weight = ConfidenceDifficultyWeight(2)
    rows = torch.tensor([[9, 1], [9, 1], [9, 1], [8.1, 0.25], [9, 1]], dtype=torch.float64)
    weight.update(ClassStatistics(*rows))
    assert_close(weight.state_dict()["certainty.confidence"], torch.tensor([0.9, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("name", ["DisW", "DifW", "CDifW", "CDisW"])
def test_weights_equal_the_definitions_over_many_steps(name):
    counts = torch.tensor([900, 90, 10])
    weight, reference = make_class_weight(name, CLASSES), Reference(counts.tolist())
    weight.start(counts)
    for step in range(25):
        # Every third batch lacks a class, as random crops do.
        batch = random_batch(step, absent=(2,) if step % 3 == 1 else ())
        expected = reference.update(reference_statistics(*batch))[name]
        assert_close(weight.update(class_statistics(*batch)), torch.tensor(expected), rtol=1e-5, atol=1e-6)


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

    def test_no_weighting_leaves_losses_alone(self):
        weight = make_class_weight("none", 3)
        weight.update(class_statistics(*random_batch(1)))
        assert_close(weight.loss_weight(), torch.ones(3))


def test_unknown_weight_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match="class weight 'disw' does not exist; accepted are none, DisW, DifW, CDifW"):
        make_class_weight("disw", 3)


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_statistics_survive_a_checkpoint(name, tmp_path):
    weight, other = make_class_weight(name, CLASSES), make_class_weight(name, CLASSES)
    weight.start(torch.tensor([90, 9, 1]))
    for step in range(4):
        weight.update(class_statistics(*random_batch(step)))
    torch.save(weight.state_dict(), tmp_path / "weight.pt")
    other.load_state_dict(torch.load(tmp_path / "weight.pt", weights_only=True))
    assert_close(other.weight, weight.weight, rtol=0, atol=0)
    batch = class_statistics(*random_batch(9, absent=(1,)))
    assert_close(other.update(batch), weight.update(batch), rtol=0, atol=0)


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


SCRIPT = """
import sys
import torch
import torch.distributed as dist
from common.class_weights import CLASS_WEIGHTS, class_statistics, make_class_weight

dist.init_process_group("gloo")
batches = torch.load(sys.argv[1], weights_only=True)
weights = {name: make_class_weight(name, 3) for name in CLASS_WEIGHTS}
for batch in batches:
    # Rank r sees image r alone.
    mine = [item[dist.get_rank() : dist.get_rank() + 1] for item in batch]
    for weight in weights.values():
        weight.update(class_statistics(*mine))
torch.save({name: weight.state_dict() for name, weight in weights.items()}, f"{sys.argv[2]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


def test_two_processes_hold_the_weights_of_one_that_sees_everything(repository, run_ranks, tmp_path):
    batches = [random_batch(seed, absent=(2,) if seed == 2 else ()) for seed in range(4)]
    torch.save(batches, tmp_path / "batches.pt")
    command = ["-c", SCRIPT, str(tmp_path / "batches.pt"), str(tmp_path)]
    results = run_ranks(command, 2, cwd=tmp_path, env={"PYTHONPATH": str(repository)})
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in CLASS_WEIGHTS:
        alone = make_class_weight(name, 3)
        for batch in batches:
            alone.update(class_statistics(*batch))
        for key, value in alone.state_dict().items():
            assert_close(first[name][key], value, rtol=1e-6, atol=1e-9)
            assert torch.equal(first[name][key], second[name][key])
