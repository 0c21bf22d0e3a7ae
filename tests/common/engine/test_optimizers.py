import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn
from torch.testing import assert_close

from common.engine.optimizers import (
    GradientClipping,
    IterationSchedule,
    make_optimizer,
    polynomial_decline,
)
from common.errors import ConfigError


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizer_is_torchs_own(name):
    weights, expected = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    further = {"momentum": 0.8, "nesterov": True} if name == "sgd" else {"amsgrad": True}
    reference = kinds[name]([expected], lr=0.1, weight_decay=0.01, **further)
    optimizer = make_optimizer(name, [weights], 0.1, weight_decay=0.01, momentum=0.8, amsgrad=True)
    for _ in range(3):
        for parameter, chosen in ((weights, optimizer), (expected, reference)):
            chosen.zero_grad()
            parameter.square().sum().backward()
            chosen.step()
    assert_close(weights, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; accepted are adam, adamw, sgd"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"weight_decay": -1}, "weight_decay -1"),
        ({"momentum": 1}, "momentum 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    arguments = {"optimizer": "sgd", "parameters": [nn.Parameter(torch.zeros(1))], "learning_rate": 0.1} | settings
    with pytest.raises(ConfigError, match=message):
        make_optimizer(**arguments)


def test_decline_by_hand():
    assert polynomial_decline(0, iterations=10, power=0.9) == 1
    assert polynomial_decline(5, iterations=10, power=0.9) == pytest.approx(0.5**0.9)
    assert polynomial_decline(9, iterations=10, power=1) == pytest.approx(0.1)
    assert polynomial_decline(10, iterations=10, power=0) == 0
    assert polynomial_decline(3, iterations=10, power=0) == 1
    assert [polynomial_decline(step, iterations=10, warm_up=4) for step in range(4)] == [0.25, 0.5, 0.75, 1]


def make_schedule():
    optimizer = make_optimizer("sgd", [nn.Parameter(torch.zeros(1))], 0.4)
    return optimizer, IterationSchedule(optimizer, iterations=8, warm_up=0.25, power=1)


def test_rates_follow_the_decline_and_resuming_changes_none():
    optimizer, schedule = make_schedule()
    rates, states = [], []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        states.append(schedule.state_dict())
        schedule(None)
    assert_close(rates, [0.4 * polynomial_decline(step, iterations=8, warm_up=2, power=1) for step in range(8)])
    for step in range(8):
        resumed, other = make_schedule()
        other.load_state_dict(states[step])
        assert resumed.param_groups[0]["lr"] == pytest.approx(rates[step])
        other(None)
        assert resumed.param_groups[0]["lr"] == pytest.approx([*rates, 0.0][step + 1])


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"warm_up": 1}, {"power": -1}])
def test_bad_schedules_are_refused(settings):
    optimizer, _ = make_schedule()
    with pytest.raises(ConfigError, match="accepted are at least one"):
        IterationSchedule(optimizer, **{"iterations": 3} | settings)


@pytest.mark.parametrize(("limit", "step"), [(None, 3.0), (10.0, 3.0), (1.5, 1.5)])
def test_clipping_limits_the_step_of_the_trainer(limit, step):
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    data = [{"image": torch.ones(1, 1), "label": torch.zeros(1, 1)}]
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=1, train_data_loader=data, network=network, decollate=False,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0), loss_function=lambda y, _: 3 * y.sum(),
    )  # fmt: skip
    GradientClipping(network, limit).attach(trainer)
    trainer.run()
    assert network.weight.item() == pytest.approx(-step, rel=1e-5)


def test_limit_must_be_above_zero():
    with pytest.raises(ConfigError, match="max_norm is 0"):
        GradientClipping(nn.Linear(1, 1), 0)
