"""Head first, body at a lower rate, and denoisers of several doses."""

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.denoising import KeepDenoisers, finetuning_groups
from common.engine.optimizers import make_optimizer
from common.engine.schedules import make_schedule
from common.errors import ConfigError
from common.networks import HeadedUNet
from common.networks.averaging import EMANetwork


def train(network, rate=0.5, steps=10, **settings):
    """Rates of head and body in every step, and whether the body has moved after it."""
    optimizer = make_optimizer("sgd", finetuning_groups(network, rate, **settings), rate, momentum=0.0)
    schedule = make_schedule(optimizer, schedule_power=0.0, head_share=settings.get("head_share"))
    before = network.first.conv_0.conv.weight.detach().clone()
    rates, moved = [], []

    def step(_engine, _batch):
        optimizer.zero_grad()
        network(torch.ones(1, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
        moved.append(not torch.equal(network.first.conv_0.conv.weight, before))

    engine = Engine(step)
    schedule.attach(engine)
    engine.run(range(steps), max_epochs=1)
    return rates, moved


def small():
    torch.manual_seed(0)
    return HeadedUNet(2, 1, 2, features=(4, 8), norm=None)


def test_head_learns_first_and_the_body_at_a_lower_rate():
    rates, moved = train(small(), rate=0.01, head_share=0.3, body_rate=0.25)
    assert rates == [[0.01, 0.0]] * 3 + [[0.01, 0.0025]] * 7
    assert moved == [False] * 3 + [True] * 7


def test_every_parameter_is_in_one_group():
    network = small()
    head, body = finetuning_groups(network, 1.0, body_rate=0.5)
    assert {id(part) for part in head["params"]} == {id(part) for part in network.head.parameters()}
    found = [id(part) for group in (head, body) for part in group["params"]]
    assert sorted(found) == sorted(id(part) for part in network.parameters())


def test_body_that_has_not_learned_is_not_spared():
    rates, moved = train(small(), body_rate=0.1, head_share=0.3, pretrained=False)
    assert rates == [[0.5]] * 10
    assert all(moved)


def test_guide_is_no_part_of_what_learns():
    network = HeadedUNet(2, 1, 1, features=(2, 4), guided=True)
    learning = finetuning_groups(network, 1.0, body_rate=0.5, head_share=0.1)
    own = [part for name, part in network.named_parameters() if not name.startswith("guide.")]
    assert [id(part) for part in learning] == [id(part) for part in own]


def test_without_either_there_is_one_group():
    rates, moved = train(small(), rate=0.01)
    assert rates == [[0.01]] * 10
    assert all(moved)


@pytest.mark.parametrize("name", ["head_share", "body_rate"])
def test_shares_out_of_range_are_named(name):
    with pytest.raises(ConfigError, match=f"{name} is 0.0; accepted are"):
        train(small(), **{name: 0.0})


def test_head_share_needs_a_length():
    optimizer = make_optimizer("sgd", small().parameters(), 0.1)
    with pytest.raises(ConfigError, match=r"head_share is 0.1 with decline 'plateau', which has no length"):
        make_schedule(optimizer, "plateau", head_share=0.1)


@pytest.mark.parametrize("averaged", [False, True])
def test_weights_of_asked_iterations_are_kept(tmp_path, averaged):
    network = nn.Linear(1, 1, bias=False)
    ema = EMANetwork(network, ema_decay=0.5)
    progress = SimpleNamespace(average=SimpleNamespace(ema=ema) if averaged else None)
    seen = {}

    def step(engine, _batch):
        with torch.no_grad():
            network.weight.fill_(float(engine.state.iteration))
        ema.update_parameters(network)
        seen[engine.state.iteration] = (ema.module if averaged else network).weight.detach().clone()

    engine = Engine(step)
    KeepDenoisers(network, progress, str(tmp_path), [2, 5]).attach(engine)
    engine.run(range(3), max_epochs=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["denoiser_2.pt", "denoiser_5.pt"]
    for iteration in (2, 5):
        kept = torch.load(tmp_path / f"denoiser_{iteration}.pt", weights_only=True)
        assert torch.equal(kept["weight"], seen[iteration])
        assert averaged == (float(kept["weight"]) != iteration)


def test_iteration_that_would_never_come_is_named_before_the_first(tmp_path):
    engine = Engine(lambda engine, batch: pytest.fail("an iteration was run"))
    KeepDenoisers(nn.Linear(1, 1), SimpleNamespace(average=None), str(tmp_path), [2, 50]).attach(engine)
    with pytest.raises(ConfigError, match=r"is \[2, 50\], but pre-training has 6 iterations; train longer, or name"):
        engine.run(range(3), max_epochs=2)


def test_no_iteration_below_one_is_kept():
    engine = Engine(lambda engine, batch: None)
    KeepDenoisers(nn.Linear(1, 1), SimpleNamespace(average=None), "nowhere").attach(engine)
    assert not engine.has_event_handler(KeepDenoisers.__call__, Events.ITERATION_COMPLETED)
    with pytest.raises(ConfigError, match=r"pretrain_checkpoints is \[0\]; accepted are iterations from 1"):
        KeepDenoisers(nn.Linear(1, 1), SimpleNamespace(average=None), "nowhere", [0])
