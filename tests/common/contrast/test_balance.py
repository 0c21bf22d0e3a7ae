"""Weights of the side tasks: constant, declining, and by gradients."""

import pytest
import torch

from common.contrast import LossBalance
from common.errors import ConfigError


def make_terms(shared):
    """Terms whose gradients on the shared weights have norms of 5, 0.5 and 2."""
    return {
        "segmentation": 3 * shared[0] + 4 * shared[1],
        "contrastive": 0.5 * shared[0],
        "classification": 2 * shared[1],
    }


@pytest.fixture
def shared():
    return torch.nn.Parameter(torch.ones(2))


def number(value):
    return float(value.detach())


def weigh(balance, shared, iteration=1, share=0.0, terms=None):
    return balance.weigh(terms or make_terms(shared), [shared], iteration=iteration, share=share)


@pytest.mark.parametrize(("name", "factor"), [("constant", 1.0), ("decline", 0.75)])
def test_weights(shared, name, factor):
    found = weigh(LossBalance(alpha=0.1, beta=3.0, term_balance=name), shared, share=0.25)
    assert {name: number(value) for name, value in found.items()} == pytest.approx(
        {"segmentation": 7.0, "contrastive": 0.1 * factor * 0.5, "classification": 3 * factor * 2}
    )


class TestGradient:
    def test_gradients_are_in_proportion(self, shared):
        found = weigh(LossBalance(alpha=0.1, beta=0.5, term_balance="gradient"), shared)
        norms = {name: float(torch.autograd.grad(term, shared)[0].norm()) for name, term in found.items()}
        assert norms == pytest.approx({"segmentation": 5.0, "contrastive": 0.5, "classification": 2.5})

    def test_factors_stay_between_measurements(self, shared):
        balance = LossBalance(alpha=1.0, term_balance="gradient", norm_interval=3)
        values = [number(weigh(balance, shared * scale, n)["contrastive"]) for n, scale in ((1, 1.0), (2, 1.0))]
        doubled = {"segmentation": make_terms(shared)["segmentation"], "contrastive": shared[0]}
        later = [number(weigh(balance, shared, n, terms=doubled)["contrastive"]) for n in (2, 3, 4)]
        assert values == pytest.approx([5.0, 5.0])
        assert later == pytest.approx([10.0, 5.0, 5.0])

    def test_without_segmentation_weights_are_constant(self, shared):
        terms = make_terms(shared) | {"segmentation": torch.zeros(())}
        balance = LossBalance(alpha=0.1, term_balance="gradient")
        assert number(weigh(balance, shared, terms=terms)["contrastive"]) == pytest.approx(0.05)
        assert balance.state_dict() == {}

    def test_term_without_gradient_stays_finite(self, shared):
        terms = make_terms(shared) | {"contrastive": 0 * shared[0]}
        assert number(weigh(LossBalance(term_balance="gradient"), shared, terms=terms)["contrastive"]) == 0.0

    def test_factors_survive_a_checkpoint(self, shared):
        balances = [LossBalance(alpha=0.1, term_balance="gradient") for _ in range(2)]
        weigh(balances[0], shared)
        balances[1].load_state_dict(balances[0].state_dict())
        doubled = make_terms(shared) | {"contrastive": shared[0]}
        values = [number(weigh(item, shared, 2, terms=doubled)["contrastive"]) for item in balances]
        assert values[0] == values[1] == pytest.approx(0.1 * 5 / 0.5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"alpha": -1.0}, "alpha -1.0, beta 0.1: accepted are weights of at least 0"),
        ({"term_balance": "some"}, "term_balance is 'some'; accepted are constant, decline, gradient"),
        ({"norm_interval": 0}, "norm_interval is 0; accepted are numbers of iterations from 1"),
    ],
)
def test_settings_that_are_not_accepted(settings, text):
    with pytest.raises(ConfigError, match=text):
        LossBalance(**settings)
