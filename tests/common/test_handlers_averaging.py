import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.testing import assert_close

from common.handlers import AveragedWeights, BestWeights
from common.networks.averaging import EMANetwork


def make_training(network, seen, *, decay=0.5, ema=None, update=True):
    """A training that adds 1 to the weights in every iteration, and a validation after every epoch."""

    def step(_engine, _batch):
        with torch.no_grad():
            network.weight += 1

    trainer, evaluator = Engine(step), Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: seen.append(network.weight.item()))
    averaged = AveragedWeights(network, evaluator, ema or EMANetwork(network, ema_decay=decay), update=update)
    averaged.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0]))
    return trainer, averaged


def zero_network():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    return network


def test_average_is_validated_and_the_training_goes_on_with_its_own_weights():
    network, seen = zero_network(), []
    trainer, _ = make_training(network, seen)
    trainer.run([0, 1], max_epochs=2)
    averages = [1.0]
    for weight in (2, 3, 4):
        averages.append(averages[-1] * 0.5 + weight * 0.5)
    assert seen == [averages[1], averages[3]]
    assert network.weight.item() == 4


def test_average_that_the_training_keeps_is_used_as_it_is():
    network, seen = zero_network(), []
    average = EMANetwork(network)
    with torch.no_grad():
        average.module.weight.fill_(7)
        average.n_averaged += 1
    trainer, _ = make_training(network, seen, ema=average, update=False)
    trainer.run([0], max_epochs=2)
    assert seen == [7, 7]


def test_before_the_first_step_the_network_itself_is_validated():
    network = zero_network()
    _, averaged = make_training(network, [])
    averaged.take()
    averaged.give_back()
    assert network.weight.item() == 0


def test_state_goes_on():
    network, seen = zero_network(), []
    trainer, averaged = make_training(network, seen)
    trainer.run([0, 1], max_epochs=1)
    again = zero_network()
    _, other = make_training(again, [])
    other.load_state_dict(averaged.state_dict())
    assert_close(other.ema.module.weight, averaged.ema.module.weight)
    other.take()
    assert again.weight.item() == seen[0]


def test_running_statistics_are_those_of_the_average():
    network = nn.BatchNorm1d(1)
    average = EMANetwork(network)
    average.update_parameters(network)
    with torch.no_grad():
        network.running_mean.fill_(5)
    evaluator = Engine(lambda engine, batch: None)
    averaged = AveragedWeights(network, evaluator, average)
    averaged.take()
    assert network.running_mean.item() == 0
    averaged.give_back()
    assert network.running_mean.item() == 5


def test_failed_validation_leaves_the_weights_of_the_last_step():
    network = zero_network()

    def fail(_engine, _batch):
        raise RuntimeError("no memory")

    evaluator, average = Engine(fail), EMANetwork(network)
    average.n_averaged += 1
    with torch.no_grad():
        average.module.weight.fill_(7)
    AveragedWeights(network, evaluator, average).attach(Engine(lambda engine, batch: None))
    with pytest.raises(RuntimeError, match="no memory"):
        evaluator.run([0])
    assert network.weight.item() == 0


class Scored(Engine):
    """A validation whose key metric is what the weights give, by a table."""

    def __init__(self, network, scores):
        super().__init__(lambda engine, batch: None)
        self.state.key_metric_name, self.scored = "dice", []
        self.add_event_handler(Events.EPOCH_COMPLETED, self.score)
        self.network, self.scores = network, scores

    def score(self, _engine):
        self.scored.append(self.network.weight.item())
        self.state.metrics["dice"] = self.scores[self.network.weight.item()]

    def run(self, epoch):
        state = self.state
        super().run([0])
        self.state.key_metric_name = state.key_metric_name


@pytest.mark.parametrize(
    ("average", "student", "better"),
    [(0.3, 0.5, 0.5), (0.5, 0.3, 0.5), (float("nan"), 0.2, 0.2), (0.4, float("nan"), 0.4)],
)
def test_both_are_validated_and_the_better_is_kept(tmp_path, average, student, better):
    network = zero_network()
    # One step of 1: the average is moved by half of it, after a copy of 0.
    ema = EMANetwork(network, ema_decay=0.5)
    ema.update_parameters(network)
    evaluator = Scored(network, {0.5: average, 1.0: student})
    best = BestWeights(network, tmp_path)
    best.attach(evaluator)
    averaged = AveragedWeights(network, evaluator, ema, compare=True)

    def step(_engine, _batch):
        with torch.no_grad():
            network.weight += 1

    trainer = Engine(step)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=1), lambda engine: evaluator.run(engine.state.epoch))
    averaged.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert evaluator.scored == [0.5, 1.0]
    assert network.weight.item() == 1.0
    assert evaluator.state.metrics["dice"] == best.best == better
    found = {name: value for name, value in evaluator.state.metrics.items() if value == value and name != "dice"}
    expected = {"dice_average": average, "dice_students": student}
    assert found == {name: value for name, value in expected.items() if value == value}
    saved = torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item()
    assert saved == (1.0 if better == student else 0.5)


def test_epoch_without_validation_validates_nobody(tmp_path):
    network = zero_network()
    evaluator = Scored(network, {})
    trainer = Engine(lambda engine, batch: None)
    AveragedWeights(network, evaluator, EMANetwork(network), compare=True).attach(trainer)
    trainer.run([0], max_epochs=2)
    assert evaluator.scored == []
