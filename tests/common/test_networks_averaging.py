import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.networks.averaging import EMANetwork


def tiny_network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))


def test_first_update_is_a_copy_and_later_ones_follow_the_decay():
    network, values = nn.Linear(1, 1, bias=False), [3.0, 5.0, -1.0, 2.0]
    average = EMANetwork(network)
    expected = None
    for t, value in enumerate(values, start=1):
        network.weight.data.fill_(value)
        average.update_parameters(network)
        decay = min(0.99, 1 - 1 / (t + 1))
        expected = value if t == 1 else decay * expected + (1 - decay) * value
        assert float(average.module.weight) == pytest.approx(expected)


def test_decay_never_exceeds_its_maximum():
    average = EMANetwork(nn.Linear(1, 1), ema_decay=0.9)
    average.n_averaged += 500
    assert average.decay() == 0.9
    average.n_averaged.fill_(2)
    assert average.decay() == pytest.approx(0.75)


def test_buffers_are_copied_and_the_average_predicts_in_evaluation_mode():
    network = tiny_network()
    average = EMANetwork(network)
    network.train()(torch.randn(4, 1, 8, 6))
    average.update_parameters(network)
    assert not average.module.training
    assert_close(average.module[1].running_mean, network[1].running_mean, rtol=0, atol=0)
    assert int(average.module[1].num_batches_tracked) == 1
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_average_survives_a_checkpoint(tmp_path):
    network = tiny_network()
    average, other = EMANetwork(network), EMANetwork(tiny_network())
    for _ in range(3):
        average.update_parameters(tiny_network())
    torch.save(average.state_dict(), tmp_path / "ema.pt")
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    assert other.decay() == average.decay() == pytest.approx(0.8)
    other.update_parameters(network)
    average.update_parameters(network)
    assert_close(other.state_dict(), average.state_dict(), rtol=0, atol=0)
