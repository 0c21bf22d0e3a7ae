import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn
from torch.testing import assert_close

from common.engine.optimizers import (
    GradientClipping,
    make_optimizer,
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
        ({"optimizer_name": "lion"}, "optimizer_name is 'lion'; accepted are adam, adamw, sgd"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"weight_decay": -1}, "weight_decay -1"),
        ({"momentum": 1}, "momentum 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    arguments = {"optimizer_name": "sgd", "params": [nn.Parameter(torch.zeros(1))], "learning_rate": 0.1} | settings
    with pytest.raises(ConfigError, match=message):
        make_optimizer(**arguments)


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
    with pytest.raises(ConfigError, match="gradient_clip is 0"):
        GradientClipping(nn.Linear(1, 1), 0)
