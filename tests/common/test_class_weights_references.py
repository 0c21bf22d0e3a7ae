"""Class weights against slow references written from their definitions, over many batches and processes."""

import math

import pytest
import torch
from torch.testing import assert_close

from common.class_weights import CLASS_WEIGHTS, ClassStatistics, class_statistics, make_class_weight

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


def test_statistics_equal_those_of_a_loop_over_voxels():
    batch = random_batch(3)
    expected = reference_statistics(*batch)
    for name, values in class_statistics(*batch)._asdict().items():
        assert_close(values, torch.tensor(expected[name], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert class_statistics(*batch[:2]).pseudo.tolist() == [0, 0, 0]


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


def test_no_weighting_leaves_losses_alone():
    weight = make_class_weight("none", 3)
    weight.update(class_statistics(*random_batch(1)))
    assert_close(weight.loss_weight(), torch.ones(3))


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
