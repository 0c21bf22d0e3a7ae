"""Pairs of frames by overlapping sets of classes, a memory of earlier ones, and pairs of patches."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from common.contrast import (
    PairLoss,
    majority_classes,
    overlapping_pairs,
    patch_contrast,
    positive_pairs,
    supervised_contrastive_loss,
)
from common.errors import ConfigError

PRESENCE = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]])
NO_PHASE = torch.full((6,), -1)


def random_projections(count, seed=0):
    return normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_jaccard(presence, phase):
    sets = [{n for n, shown in enumerate(row) if shown} for row in presence.tolist()]
    table = torch.zeros(len(sets), len(sets))
    for i, first in enumerate(sets):
        for j, second in enumerate(sets):
            torn = phase[i] >= 0 and phase[j] >= 0 and phase[i] != phase[j]
            if i != j and not torn:
                table[i, j] = len(first & second) / len(first | second) if first | second else 1.0
    return table


def slow_loss(anchors, others, weight, temperature):
    """The loss of anchors against others, of which the first are the anchors themselves."""
    values = []
    for i, anchor in enumerate(anchors):
        if not weight[i].sum():
            continue
        scores = {j: math.exp(float(anchor @ other) / temperature) for j, other in enumerate(others) if j != i}
        total = sum(scores.values())
        each = [float(weight[i, j]) * math.log(score / total) for j, score in scores.items()]
        values.append(-sum(each) / float(weight[i].sum()))
    return sum(values) / len(values) if values else 0.0


class TestOverlap:
    @pytest.mark.parametrize("phase", [NO_PHASE, torch.tensor([0, 1, 0, -1, 1, 0])])
    def test_jaccard_index(self, phase):
        assert_close(overlapping_pairs(PRESENCE, phase), slow_jaccard(PRESENCE, phase))

    def test_equal_sets_are_the_pairs_of_weight_one(self):
        phase = torch.tensor([0, 1, 0, -1, 0, 0])
        assert torch.equal(overlapping_pairs(PRESENCE, phase) == 1, positive_pairs(PRESENCE, phase))

    def test_weighted_loss(self):
        projections, weight = random_projections(6), overlapping_pairs(PRESENCE)
        expected = slow_loss(projections, projections, weight, 0.2)
        assert float(supervised_contrastive_loss(projections, weight, temperature=0.2)) == pytest.approx(
            expected, rel=1e-5
        )


class TestQueue:
    def test_earlier_frames_are_compared_with(self):
        pairs = PairLoss(positives="overlap", temperature=0.2, queue_size=8)
        batches = [[random_projections(6, seed), random_projections(6, seed + 10)] for seed in range(3)]
        for batch in batches[:2]:
            pairs(batch, PRESENCE, NO_PHASE)
        found = pairs(batches[2], PRESENCE, NO_PHASE)
        tables = torch.cat([PRESENCE, PRESENCE, PRESENCE[:2]])
        weight = slow_jaccard(tables, [-1] * 14)[:6]
        for scale, value in enumerate(found):
            others = torch.cat([batches[2][scale], batches[1][scale], batches[0][scale][:2]])
            assert float(value) == pytest.approx(slow_loss(batches[2][scale], others, weight, 0.2), rel=1e-5)

    def test_no_gradient_reaches_earlier_frames(self):
        pairs = PairLoss(queue_size=6)
        first = random_projections(6).requires_grad_()
        pairs([first], PRESENCE, NO_PHASE)
        second = random_projections(6, 1).requires_grad_()
        pairs([second], PRESENCE, NO_PHASE)[0].backward()
        assert first.grad is None
        assert second.grad is not None

    def test_queue_survives_a_checkpoint(self):
        ways = [PairLoss(queue_size=4), PairLoss(queue_size=4)]
        ways[0]([random_projections(6)], PRESENCE, NO_PHASE)
        ways[1].load_state_dict(ways[0].state_dict())
        values = [way([random_projections(6, 3)], PRESENCE, NO_PHASE)[0] for way in ways]
        assert_close(*values, rtol=0, atol=0)

    def test_queue_follows_the_frames_to_their_device(self):
        pairs = PairLoss(queue_size=4)
        pairs([random_projections(6)], PRESENCE, NO_PHASE)
        (loss,) = pairs([random_projections(6).to("meta")], PRESENCE.to("meta"), NO_PHASE.to("meta"))
        assert loss.device.type == pairs.queue["presence"].device.type == "meta"

    def test_nothing_is_remembered_by_default(self):
        pairs = PairLoss()
        pairs([random_projections(6)], PRESENCE, NO_PHASE)
        assert pairs.state_dict() == {}


class TestPatches:
    def test_majority(self):
        label = torch.randint(0, 3, (2, 1, 6, 8), generator=torch.Generator().manual_seed(0))
        found = majority_classes(label, 3, [3, 2])
        for frame, row, column in itertools.product(range(2), range(3), range(2)):
            patch = label[frame, 0, 2 * row : 2 * row + 2, 4 * column : 4 * column + 4].flatten().tolist()
            expected = max(range(3), key=lambda n, patch=patch: (patch.count(n), -n))
            assert int(found[frame, row, column]) == expected

    def test_patches_of_one_class_are_positive(self):
        label = torch.zeros(2, 1, 4, 6, dtype=torch.uint8)
        label[0, 0, :2, :2], label[1, 0, 2:, 4:] = 1, 1
        projections = normalize(torch.randn(2, 5, 2, 3, generator=torch.Generator().manual_seed(0)), dim=1)
        places = itertools.product(range(2), range(2), range(3))
        rows = [projections[frame, :, row, column] for frame, row, column in places]
        classes = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        weight = torch.tensor(
            [[float(i != j and a == b) for j, b in enumerate(classes)] for i, a in enumerate(classes)]
        )
        expected = slow_loss(rows, rows, weight, 0.1)
        assert float(patch_contrast(projections, label, 2)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"positives": "some"}, "positives is 'some'; accepted are equal and overlap"),
        ({"temperature": 0.0}, "temperature is 0.0; accepted are numbers above 0"),
        ({"queue_size": -1}, "queue_size is -1; accepted are numbers of frames from 0"),
    ],
)
def test_settings_that_are_not_accepted(settings, text):
    with pytest.raises(ConfigError, match=text):
        PairLoss(**settings)
