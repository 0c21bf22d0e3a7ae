import json
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import nn
from torch.testing import assert_close

from common.errors import MissingDataError
from common.handlers import (
    Attach,
    BestWeights,
    EpochSeeder,
    PlateauSchedule,
    TrainingCheckpoint,
    TrainingHistory,
)


def optimizer_of(network, rate=1.0):
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.5)


def run_schedule(losses, interval=2, epochs=100, schedule=None, **settings):
    """Runs an engine over the losses, one epoch per evaluation; returns the schedule, the engine and the rates."""
    optimizer = optimizer_of(nn.Linear(1, 1))
    schedule = schedule or PlateauSchedule(optimizer, interval=interval, **settings)
    values, rates = iter(losses), []
    engine = Engine(lambda engine, batch: [{"loss": torch.tensor(next(values))}])
    schedule.attach(engine)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: rates.append(schedule.scheduler.optimizer.param_groups[0]["lr"])
    )
    engine.run(range(interval), max_epochs=min(epochs, len(losses) // interval))
    return schedule, engine, rates


def test_rate_falls_with_every_evaluation_whose_mean_loss_is_not_lower():
    # Means of two iterations: 4, 3, 3 (not lower), 2, 5 (not lower), 1.
    losses = [5.0, 3.0, 3.0, 3.0, 1.0, 5.0, 2.0, 2.0, 4.0, 6.0, 1.0, 1.0]
    _, engine, rates = run_schedule(losses)
    assert rates == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.81])
    assert engine.state.epoch == 6


def test_training_stops_after_two_such_evaluations_in_a_row():
    _, engine, rates = run_schedule([3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.5, 2.5, 0.1, 0.1])
    assert rates == pytest.approx([1, 1, 0.9, 0.81])
    assert engine.state.epoch == 4


def test_loss_that_is_not_a_number_counts_as_not_lower():
    _, engine, _ = run_schedule([1.0, math.nan, math.nan, 0.5], interval=1)
    assert engine.state.epoch == 3


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 2), (3, 4)])
def test_patience_and_factor_can_be_set(patience, epochs):
    _, engine, rates = run_schedule([1.0] * 6, interval=1, patience=patience, factor=0.5)
    assert engine.state.epoch == epochs
    assert rates == pytest.approx([0.5**k for k in range(epochs)])


def test_epoch_is_finished_before_training_stops():
    schedule = PlateauSchedule(optimizer_of(nn.Linear(1, 1)), interval=1)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0)})
    schedule.attach(engine)
    engine.run(range(8), max_epochs=5)
    assert (engine.state.epoch, engine.state.iteration) == (1, 8)


def test_defaults_of_the_schedule_are_the_paper_s():
    schedule = PlateauSchedule(optimizer_of(nn.Linear(1, 1)))
    assert (schedule.interval, schedule.scheduler.factor, schedule.patience) == (2000, 0.9, 2)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_resumed_schedule_goes_on_as_an_uninterrupted_one(cut):
    losses = [3.0, 3.0, 2.0, 2.5, 2.4, 2.6, 2.0, 2.0, 1.0, 1.0]
    whole, _, rates = run_schedule(losses, epochs=5, patience=0)
    first, _, before = run_schedule(losses[: 2 * cut], patience=0)
    second = PlateauSchedule(optimizer_of(nn.Linear(1, 1), rate=before[-1]), interval=2, patience=0)
    second.load_state_dict(first.state_dict())
    _, _, after = run_schedule(losses[2 * cut :], schedule=second)
    assert before + after == pytest.approx(rates)
    assert second.state_dict() == whole.state_dict()


def validation(value):
    return SimpleNamespace(state=SimpleNamespace(metrics={"dice": value}, key_metric_name="dice"))


def test_only_better_validations_replace_the_weights(tmp_path):
    network = nn.Linear(1, 1)
    best = BestWeights(network, str(tmp_path / "model.pt"))
    kept = []
    for step, value in enumerate([0.5, 0.4, 0.5, 0.7, 0.6]):
        nn.init.constant_(network.weight, step)
        best(validation(value))
        kept.append(float(torch.load(tmp_path / "model.pt", weights_only=True)["weight"]))
    assert kept == [0, 0, 0, 3, 3]
    assert best.state_dict() == {"best": 0.7}


def test_best_value_survives_a_restart(tmp_path):
    network = nn.Linear(1, 1)
    best = BestWeights(network, str(tmp_path / "model.pt"))
    best.load_state_dict({"best": 0.7})
    best(validation(0.6))
    assert not (tmp_path / "model.pt").exists()
    best(validation(0.8))
    assert best.best == 0.8
    assert (tmp_path / "model.pt").is_file()


def test_validation_without_a_metric_is_never_the_best(tmp_path):
    best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"))
    for value in (0.5, math.nan, 0.4):
        best(validation(value))
    assert best.best == 0.5


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.checkpoint.is_main_process", lambda: False)
    best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"))
    best(validation(0.5))
    TrainingCheckpoint(str(tmp_path / "checkpoint.pt"), {})(Engine(lambda engine, batch: None))
    assert best.best == 0.5
    assert list(tmp_path.iterdir()) == []


def train(path, max_epochs, *, resume=False, interval=1):
    """Trains a tiny network on batches that depend on the iteration alone; returns its members and engine."""
    torch.manual_seed(3 if resume else 0)
    network = nn.Linear(2, 1)
    optimizer = optimizer_of(network, rate=0.01)

    def step(engine, batch):
        generator = torch.Generator().manual_seed(engine.state.iteration)
        optimizer.zero_grad()
        network(torch.randn(4, 2, generator=generator)).square().mean().backward()
        optimizer.step()

    engine = Engine(step)
    members = {"network": nn.DataParallel(network), "optimizer": optimizer}
    TrainingCheckpoint(str(path), members, resume=resume, interval=interval).attach(engine)
    engine.run(range(3), max_epochs=max_epochs)
    return network, optimizer, engine


def test_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    whole, whole_optimizer, _ = train(tmp_path / "whole.pt", 4)
    train(tmp_path / "checkpoint.pt", 2)
    network, optimizer, engine = train(tmp_path / "checkpoint.pt", 4, resume=True)
    assert (engine.state.epoch, engine.state.iteration) == (4, 12)
    assert_close(network.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert_close(optimizer.state_dict()["state"], whole_optimizer.state_dict()["state"], rtol=0, atol=0)


def test_checkpoint_is_written_every_interval(tmp_path):
    train(tmp_path / "checkpoint.pt", 5, interval=2)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert checkpoint["progress"] == {"epoch": 4, "iteration": 12}


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(MissingDataError, match=r"checkpoint\.pt"):
        train(tmp_path / "checkpoint.pt", 1, resume=True)


def test_history_records_every_epoch_and_the_best(tmp_path):
    optimizer = optimizer_of(nn.Linear(1, 1))
    evaluator = Engine(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(1.0 / engine.state.epoch)})
    dice = iter([0.8, 0.6])

    @evaluator.on(Events.COMPLETED)
    def measure():
        evaluator.state.metrics["dice"], evaluator.state.key_metric_name = next(dice), "dice"

    @trainer.on(Events.EPOCH_COMPLETED)
    def step():
        optimizer.param_groups[0]["lr"] *= 0.5

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: evaluator.run([0]))
    history = TrainingHistory(str(tmp_path / "run"), evaluator, optimizer)
    Attach(history).attach(trainer)
    trainer.run([0], max_epochs=4)
    epochs = [
        {"epoch": 1, "learning_rate": 0.5, "train_loss": 1.0},
        {"epoch": 2, "learning_rate": 0.25, "train_loss": 0.5, "dice": 0.8},
        {"epoch": 3, "learning_rate": 0.125, "train_loss": pytest.approx(1 / 3)},
        {"epoch": 4, "learning_rate": 0.0625, "train_loss": 0.25, "dice": 0.6},
    ]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"best": epochs[1], "epochs": epochs}
    with Image.open(tmp_path / "run" / "training.png") as picture:
        assert (picture.format, min(picture.size) > 100) == ("PNG", True)
    again = TrainingHistory(str(tmp_path), evaluator, optimizer)
    again.load_state_dict(history.state_dict())
    assert again.epochs == history.epochs


def test_epochs_are_seeded_by_seed_and_number_alone():
    def draws(seed, epochs):
        seen, sampler, transform = [], SimpleNamespace(), SimpleNamespace()
        sampler.set_epoch = lambda epoch: seen.append(epoch)
        transform.set_random_state = lambda seed: seen.append(seed)
        engine = Engine(lambda engine, batch: seen.append(float(torch.rand(()))))
        EpochSeeder(seed, sampler, transform).attach(engine)
        engine.run([0], max_epochs=epochs)
        return [tuple(seen[k : k + 3]) for k in range(0, len(seen), 3)]

    assert draws(1, 3)[:2] == draws(1, 2)
    assert [epoch for epoch, _, _ in draws(1, 3)] == [1, 2, 3]
    assert len({value for seed in (1, 2) for _, *values in draws(seed, 3) for value in values}) == 12
