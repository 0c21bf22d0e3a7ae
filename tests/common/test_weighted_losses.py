import math

import pytest
import torch
from torch.testing import assert_close

from common.double_mix.losses import WeightedDiceLoss, WeightedSegmentationLoss, weighted_cross_entropy


def random_case(seed=0, classes=3, shape=(4, 3, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *shape, generator=generator)
    return logits, torch.randint(0, classes, (2, 1, *shape), generator=generator)


def reference_cross_entropy(logits, target, weight):
    total = norm = 0.0
    flat = logits.movedim(1, -1).reshape(-1, logits.shape[1]).tolist()
    for voxel, y in zip(flat, target.flatten().tolist(), strict=True):
        total += weight[y] * (math.log(sum(map(math.exp, voxel))) - voxel[y])
        norm += weight[y]
    return total / max(norm, 1e-8)


def reference_dice(logits, target, weight):
    probability, losses = logits.softmax(1), []
    for c in range(1, logits.shape[1]):
        p, g = probability[:, c], (target[:, 0] == c).float()
        losses.append(weight[c] * (1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("weight", [[1.0, 1, 1], [0.0, 1.5, 3], [0.0, 0, 3]])
@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 5)])
def test_losses_equal_their_definitions(weight, shape):
    logits, target = random_case(shape=shape)
    entropy, dice = reference_cross_entropy(logits, target, weight), reference_dice(logits, target, weight)
    given = torch.tensor(weight)
    assert_close(weighted_cross_entropy(logits, target, given), torch.tensor(entropy))
    assert_close(WeightedDiceLoss()(logits, target, given), dice)
    assert_close(WeightedSegmentationLoss()(logits, target, given), dice + entropy / 2)


def test_without_weights_all_classes_weigh_one():
    logits, target = random_case()
    loss = WeightedSegmentationLoss(0.25)
    assert_close(loss(logits, target), loss(logits, target, torch.ones(3)))
    expected = (
        WeightedDiceLoss()(logits, target, torch.ones(3)) + torch.nn.functional.cross_entropy(logits, target[:, 0]) / 4
    )
    assert_close(loss(logits, target), expected)


def test_target_of_classes_without_weight_costs_nothing():
    """All background under DisW, where background weighs 0: torch's own mean would be 0 / 0."""
    logits, target = random_case()
    logits.requires_grad_()
    loss = weighted_cross_entropy(logits, torch.zeros_like(target), torch.tensor([0.0, 1, 3]))
    loss.backward()
    assert loss == 0
    assert_close(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("kind", ["absent", "missed", "perfect"])
def test_loss_and_gradient_stay_finite_in_the_extremes(kind):
    _, target = random_case()
    truth = torch.zeros_like(target) if kind == "absent" else target
    wanted = truth if kind == "perfect" else torch.zeros_like(target)
    logits = 200 * torch.nn.functional.one_hot(wanted[:, 0], 3).movedim(-1, 1).float()
    logits.requires_grad_()
    loss = WeightedSegmentationLoss()(logits, truth, torch.tensor([0.0, 1.5, 3]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    if kind == "perfect":
        assert loss < 1e-6
    if kind == "missed":
        assert loss > 1


def test_background_does_not_count_for_dice():
    logits, target = random_case()
    loss = WeightedDiceLoss()
    assert loss(logits, target, torch.tensor([0.0, 1, 2])) == loss(logits, target, torch.tensor([9.0, 1, 2]))


def test_classes_that_no_label_holds_are_left_out_of_the_dice_where_asked():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 5, 5), torch.randint(0, 3, (2, 1, 5, 5))
    target[target == 1] = 0
    weight = torch.tensor([1.0, 0.5, 2.0, 3.0])
    probability = logits.softmax(dim=1)[:, 2]
    truth = (target[:, 0] == 2).float()
    dice = (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    assert_close(WeightedDiceLoss(present_classes=True)(logits, target, weight), 2.0 * (1 - dice))
    everywhere = WeightedSegmentationLoss(present_classes=False)(logits, target, weight)
    assert everywhere != WeightedSegmentationLoss(present_classes=True)(logits, target, weight)


def test_batch_of_background_alone_has_no_dice_of_present_classes():
    logits, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.long)
    assert WeightedDiceLoss(present_classes=True)(logits, target, torch.ones(3)) == 0
