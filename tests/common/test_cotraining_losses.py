"""The terms of the loss of co-training: what is learned from whom."""

from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

from common.class_weights import most_probable
from common.double_mix.losses import WeightedSegmentationLoss, weighted_cross_entropy
from common.double_mix.mixing import apply_mask, make_mixing
from common.double_mix.step import TEACHINGS, cross_supervision, mean_teacher
from tests.common.cotrained import CLASSES, make_batch, make_pair, make_step


class TestTeaching:
    def test_each_network_learns_from_the_other(self):
        generator = torch.Generator().manual_seed(1)
        students, teachers = ([torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2)] for _ in range(2))
        weights, loss = [torch.tensor([0.0, 1, 3]), torch.tensor([1.0, 3, 2])], WeightedSegmentationLoss()
        labels = [logits.argmax(1, keepdim=True) for logits in teachers]
        expected = loss(students[0], labels[1], weights[0]) + loss(students[1], labels[0], weights[1])
        assert_close(cross_supervision(students, teachers, weights, loss), expected)

    def test_mean_teachers_agree_with_their_own_student(self):
        logits = [torch.randn(2, 3, 4, 4) for _ in range(2)]
        assert mean_teacher(logits, [item + 7 for item in logits], [], None) < 1e-10
        swapped = mean_teacher(logits, logits[::-1], [], None)
        assert_close(swapped, 2 * ((logits[0].softmax(1) - logits[1].softmax(1)) ** 2).mean())

    @pytest.mark.parametrize("teaching", ["cross", "mean_teacher"])
    def test_no_gradient_reaches_the_teachers(self, teaching):
        students, teachers = ([torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)] for _ in range(2))
        TEACHINGS[teaching](students, teachers, [torch.ones(3)] * 2, WeightedSegmentationLoss()).backward()
        assert all(item.grad is not None for item in students)
        assert all(item.grad is None for item in teachers)


class TestLosses:
    """The terms of the loss, computed once more by hand from the definitions of METHODS 5."""

    @pytest.fixture
    def parts(self):
        network, batch = make_pair().train(), make_batch()
        for parameter in network.parameters():
            parameter.data.mul_(2)
        # Each half has batch statistics of its own.
        halves = zip(network(batch["image"]), network(batch["unlabeled"]), strict=True)
        return network, batch, [torch.cat(half) for half in halves]

    def test_unlabeled_images_do_not_change_what_labeled_ones_cost(self, parts):
        network, batch, _ = parts
        step = make_step(network, teacher="students")
        costs = [
            step.losses(deepcopy(network), batch | {"unlabeled": factor * batch["unlabeled"]}, theta=1.0)["supervised"]
            for factor in (1, 7)
        ]
        assert_close(costs[0], costs[1], rtol=0, atol=0)

    def test_supervised_term(self, parts):
        network, batch, _ = parts
        terms = make_step(network, teaching="none").losses(network, batch, theta=1.0)
        loss = WeightedSegmentationLoss()
        alone = network(batch["image"])
        assert_close(terms["supervised"], sum(loss(item, batch["label"]) for item in alone))
        assert list(terms) == ["supervised"]

    def test_cross_pseudo_supervision_uses_the_labels_of_the_students(self, parts):
        network, batch, logits = parts
        terms = make_step(network, teacher="students").losses(network, batch, theta=0.25)
        loss, (first, second) = WeightedSegmentationLoss(), [item[2:] for item in logits]
        expected = loss(first, second.argmax(1, keepdim=True)) + loss(second, first.argmax(1, keepdim=True))
        assert_close(terms["unsupervised"], 0.25 * expected)
        assert_close(terms["supervised"], sum(loss(item[:2], batch["label"]) for item in logits))

    def test_averages_label_in_evaluation_mode(self, parts):
        network, batch, logits = parts
        step = make_step(network)
        found = step.losses(network, batch, theta=1.0)["unsupervised"]
        # The first average is the network, with the statistics that both halves have left.
        teacher = deepcopy(network).eval()
        first, second = (item.argmax(1, keepdim=True) for item in teacher.each(batch["unlabeled"]))
        loss = WeightedSegmentationLoss()
        assert_close(found, loss(logits[0][2:], second) + loss(logits[1][2:], first))

    def test_cross_entropy_alone_may_teach_across(self, parts):
        network, batch, logits = parts
        taught = [most_probable(item[2:]) for item in logits]
        ones = torch.ones(CLASSES)
        expected = sum(weighted_cross_entropy(logits[k][2:], taught[1 - k], ones) for k in (0, 1))
        step = make_step(network, teacher="students", cross_loss="cross_entropy")
        assert_close(step.losses(network, batch, theta=0.5)["unsupervised"], 0.5 * expected)

    def test_mixed_term(self, parts):
        network, batch, _ = parts
        step = make_step(network, mixing="Double-Mix", weights=("CDifW", "DisW"), teaching="none")
        step.class_weights[1].start(torch.tensor([80, 15, 5]))
        before = deepcopy(network)
        terms = step.losses(network, batch, theta=1.0)
        # The same draws once more, with the weights that the step has just computed.
        generator, mixing = torch.Generator().manual_seed(5), make_mixing("Double-Mix")
        teacher = deepcopy(before)
        for half in ("image", "unlabeled"):
            teacher(batch[half])
        teachers, expected = teacher.eval().each(batch["unlabeled"]), 0.0
        for member, logits, weight in zip(
            (before.network_a, before.network_b), teachers, step.class_weights, strict=True
        ):
            pseudo = logits.argmax(1, keepdim=True)
            image, label, mask = mixing(
                batch["unlabeled"], pseudo, batch["image"], batch["label"], weight.weight, generator=generator
            )
            assert torch.equal(apply_mask(batch["unlabeled"], pseudo, batch["image"], batch["label"], mask)[0], image)
            expected += weighted_cross_entropy(member.train()(image), label, weight.loss_weight())
        assert_close(terms["mixed"], expected)
        assert list(terms) == ["supervised", "mixed"]

    def test_mixed_images_have_the_loss_of_labeled_ones_at_a_weight(self, parts):
        network, batch, _ = parts
        step = make_step(network, mixing="CutMix", mixed_loss="dice_cross_entropy", mixed_weight=0.25)
        seen = []
        pairs = step.pairs
        step.pairs = lambda *parts: seen.append(pairs(*parts)) or seen[0]
        terms = step.losses(network, batch, theta=1.0)
        loss, ones = WeightedSegmentationLoss(), torch.ones(CLASSES)
        logits = network(*seen[0][0])
        expected = sum(loss(*item, ones) for item in zip(logits, seen[0][1], strict=True))
        assert_close(terms["mixed"], 0.25 * expected)

    def test_smaller_half_is_padded_with_zeros(self, parts):
        network, batch, _ = parts
        step = make_step(network, teaching="none", mixing="CutMix")
        padded = {name: torch.nn.functional.pad(batch[name], [1, 1, 1, 1]) for name in ("image", "label")}
        larger = torch.nn.functional.pad(batch["unlabeled"], [1, 1, 1, 1], value=0.5)
        terms = [
            step.losses(deepcopy(network), given | {"unlabeled": larger}, theta=1.0)["supervised"]
            for given in (batch, padded)
        ]
        assert_close(terms[0], terms[1], rtol=0, atol=0)
