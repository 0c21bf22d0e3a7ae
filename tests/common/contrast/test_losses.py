"""Pairs and losses against slow, obvious references."""

import math

import pytest
import torch
from monai.losses import ContrastiveLoss
from torch.nn.functional import normalize
from torch.testing import assert_close

from common.contrast import byol_loss, positive_pairs, presence_loss, simclr_loss, supervised_contrastive_loss


def random_projections(count, size=6, seed=0):
    return normalize(
        torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def slow_loss(projections, positive, temperature):
    """Khosla et al. 2020, equation 2, image by image."""
    losses = []
    for i in range(len(projections)):
        others = [a for a in range(len(projections)) if a != i]
        friends = [p for p in others if positive[i][p]]
        if not friends:
            continue
        total = sum(math.exp(float(projections[i] @ projections[a]) / temperature) for a in others)
        parts = [math.log(math.exp(float(projections[i] @ projections[p]) / temperature) / total) for p in friends]
        losses.append(-sum(parts) / len(friends))
    return sum(losses) / max(len(losses), 1)


class TestPairs:
    @pytest.mark.parametrize("with_phase", [True, False])
    def test_pairs_are_those_of_the_definition(self, with_phase):
        generator = torch.Generator().manual_seed(3)
        presence = torch.randint(0, 2, (12, 3), generator=generator).float()
        phase = torch.randint(-1, 3, (12,), generator=generator) if with_phase else None
        found = positive_pairs(presence, phase)
        for i in range(12):
            for j in range(12):
                same = set(presence[i].nonzero().flatten().tolist()) == set(presence[j].nonzero().flatten().tolist())
                if with_phase and int(phase[i]) >= 0 and int(phase[j]) >= 0:
                    same = same and int(phase[i]) == int(phase[j])
                assert bool(found[i, j]) == (same and i != j)
        assert 0 < int(found.sum()) < 132

    def test_image_without_a_phase_is_positive_to_two_that_are_not_to_each_other(self):
        found = positive_pairs(torch.ones(3, 2), torch.tensor([0, -1, 1]))
        assert found.tolist() == [[False, True, False], [True, False, True], [False, True, False]]

    def test_images_without_any_class_are_alike(self):
        assert positive_pairs(torch.zeros(2, 4)).tolist() == [[False, True], [True, False]]


class TestSupervisedLoss:
    @pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_loss_is_that_of_the_equation(self, temperature, seed):
        projections = random_projections(9, seed=seed)
        presence = torch.randint(0, 2, (9, 2), generator=torch.Generator().manual_seed(seed)).float()
        positive = positive_pairs(presence, torch.tensor([0, 0, 1, 1, -1, -1, 0, 1, 2]))
        found = supervised_contrastive_loss(projections, positive, temperature=temperature)
        assert float(found) == pytest.approx(slow_loss(projections, positive, temperature), rel=1e-5)

    def test_check_value(self):
        """Two pairs at right angles: -log(e^10 / (e^10 + 2)) for each anchor."""
        projections = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        positive = positive_pairs(torch.tensor([[1], [1], [0], [0]]))
        expected = -math.log(math.exp(10) / (math.exp(10) + 2))
        assert float(supervised_contrastive_loss(projections, positive)) == pytest.approx(expected, rel=1e-2)
        warm = supervised_contrastive_loss(projections, positive, temperature=1.0)
        assert float(warm) == pytest.approx(-math.log(math.e / (math.e + 2)), rel=1e-6)

    def test_batch_without_any_pair_costs_exactly_nothing_and_has_no_gradient(self):
        projections = random_projections(4).float().requires_grad_()
        loss = supervised_contrastive_loss(projections, torch.zeros(4, 4, dtype=torch.bool))
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert torch.equal(projections.grad, torch.zeros(4, 6))

    def test_lonely_anchor_does_not_change_the_mean_of_the_others(self):
        """Its own term is 0 and it is not counted: the gradient of the sum of terms is the same with it or without."""
        projections = random_projections(6).float()
        positive = positive_pairs(torch.tensor([[0], [0], [1], [1], [1], [2]]) == torch.arange(3))
        terms = []
        for anchor in range(6):
            row = torch.zeros_like(positive)
            row[anchor] = positive[anchor]
            terms.append(float(supervised_contrastive_loss(projections, row)))
        assert terms[5] == 0.0
        assert float(supervised_contrastive_loss(projections, positive)) == pytest.approx(sum(terms) / 5, rel=1e-6)

    def test_gradient_is_right(self):
        projections = random_projections(5).requires_grad_()
        positive = positive_pairs(torch.tensor([[0], [0], [1], [1], [2]]) == torch.arange(3))
        loss = supervised_contrastive_loss(projections, positive, temperature=0.5)
        (gradient,) = torch.autograd.grad(loss, projections)
        step = 1e-3
        for place in ((0, 0), (3, 2), (4, 1)):
            moved = [projections.detach().clone() for _ in range(2)]
            moved[0][place] += step
            moved[1][place] -= step
            up, down = (slow_loss(item, positive, 0.5) for item in moved)
            assert float(gradient[place]) == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-5)

    def test_loss_falls_when_positives_come_together(self):
        positive = positive_pairs(torch.tensor([[0], [0], [1], [1]]))
        apart = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
        together = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        values = [float(supervised_contrastive_loss(item, positive)) for item in (apart, together)]
        assert values[1] < 0.01 < values[0]


class TestViews:
    def test_simclr_is_the_loss_of_monai(self):
        projections = random_projections(8).float()
        expected = ContrastiveLoss(temperature=0.2)(projections[:4], projections[4:])
        assert_close(simclr_loss(projections, temperature=torch.tensor(0.2)), expected)

    def test_simclr_is_the_supervised_loss_with_every_image_a_class_of_its_own(self):
        projections = random_projections(8).float()
        positive = positive_pairs(torch.eye(4).repeat(2, 1))
        expected = supervised_contrastive_loss(projections, positive, temperature=0.2)
        assert_close(simclr_loss(projections, temperature=torch.tensor(0.2)), expected)

    def test_byol_compares_every_image_with_its_other_view(self):
        predicted, target = (random_projections(6, seed=seed).float() for seed in (0, 1))
        cosines = [float(predicted[i] @ target[(i + 3) % 6]) for i in range(6)]
        assert float(byol_loss(predicted, target)) == pytest.approx(2 - 2 * sum(cosines) / 6, rel=1e-5)

    def test_byol_sends_no_gradient_to_the_target(self):
        predicted, target = (random_projections(4, seed=seed).float().requires_grad_() for seed in (0, 1))
        byol_loss(predicted, target).backward()
        assert predicted.grad is not None
        assert target.grad is None


class TestPresence:
    def test_loss_is_the_mean_over_images_and_classes(self):
        logits, truth = torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.tensor([[1, 1], [0, 0]])
        terms = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(3))]
        assert float(presence_loss(logits, truth)) == pytest.approx(sum(terms) / 4, rel=1e-6)

    def test_one_class_of_one_image_costs_its_whole_term(self):
        assert float(presence_loss(torch.zeros(1, 1), torch.ones(1, 1))) == pytest.approx(math.log(2), rel=1e-6)

    def test_no_image_costs_nothing(self):
        logits = torch.zeros(3, 2, requires_grad=True)
        loss = presence_loss(logits[3:], torch.zeros(0, 2))
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert torch.equal(logits.grad, torch.zeros(3, 2))
