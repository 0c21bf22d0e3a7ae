import math

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers import (
    PlateauSchedule,
)
from common.handlers import schedule as schedule_module
from common.handlers.schedule import mean_over_processes


def optimizer_of(network, rate=1.0):
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.5)


def run_schedule(losses, interval=2, epochs=100, schedule=None, **settings):
    """Runs an engine over the losses, one epoch per evaluation; returns the schedule, the engine and the rates."""
    optimizer = optimizer_of(nn.Linear(1, 1))
    schedule = schedule or PlateauSchedule(optimizer, schedule_interval=interval, **settings)
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
    _, engine, rates = run_schedule([1.0] * 6, interval=1, schedule_patience=patience, schedule_factor=0.5)
    assert engine.state.epoch == epochs
    assert rates == pytest.approx([0.5**k for k in range(epochs)])


def test_epoch_is_finished_before_training_stops():
    schedule = PlateauSchedule(optimizer_of(nn.Linear(1, 1)), schedule_interval=1)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0)})
    schedule.attach(engine)
    engine.run(range(8), max_epochs=5)
    assert (engine.state.epoch, engine.state.iteration) == (1, 8)


@pytest.mark.parametrize(("val_interval", "epochs"), [(1, 3), (2, 4), (3, 3), (5, 5)])
def test_training_stops_after_an_epoch_that_is_validated(val_interval, epochs):
    # The loss has not fallen twice in a row after the third epoch.
    _, engine, _ = run_schedule([1.0] * 8, interval=1, val_interval=val_interval)
    assert engine.state.epoch == epochs


@pytest.fixture
def group(monkeypatch):
    """A group of processes of which the others hold the given values."""

    def pretend(*others):
        monkeypatch.setattr(schedule_module, "world_size", lambda: 1 + len(others))
        monkeypatch.setattr(schedule_module.dist, "all_reduce", lambda value: value.add_(sum(others)))

    return pretend


def test_mean_over_processes_is_that_of_all_and_leaves_the_value(group):
    value = torch.tensor(3.0)
    assert mean_over_processes(value) is value
    group(4.0, 8.0)
    assert float(mean_over_processes(value)) == 5.0
    assert float(value) == 3.0


def test_schedule_decides_by_the_loss_of_all_processes(group):
    # Ours falls all the time, the mean over both does not.
    group(5.0)
    schedule, _, rates = run_schedule([3.0, 2.0, 1.0], interval=1)
    assert schedule.scheduler.best == pytest.approx(3.0)
    assert rates == pytest.approx([1, 1, 1])
    group(10.0)
    _, _, rates = run_schedule([1.0], interval=1, schedule=schedule)
    assert rates == pytest.approx([0.9])


def test_state_holds_the_mean_of_what_all_have_summed(group):
    schedule = PlateauSchedule(optimizer_of(nn.Linear(1, 1)), schedule_interval=5)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(2.0)})
    schedule.attach(engine)
    engine.run(range(3), max_epochs=1)
    assert float(schedule.state_dict()["total"]) == 6.0
    group(9.0, 3.0, 2.0)
    for _ in range(2):
        assert float(schedule.state_dict()["total"]) == 5.0
    assert float(schedule.total) == 6.0


def test_defaults_of_the_schedule_are_the_paper_s():
    schedule = PlateauSchedule(optimizer_of(nn.Linear(1, 1)))
    assert (schedule.schedule_interval, schedule.scheduler.factor, schedule.schedule_patience) == (2000, 0.9, 2)
    assert schedule.val_interval == 1


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_resumed_schedule_goes_on_as_an_uninterrupted_one(cut):
    losses = [3.0, 3.0, 2.0, 2.5, 2.4, 2.6, 2.0, 2.0, 1.0, 1.0]
    whole, _, rates = run_schedule(losses, epochs=5, schedule_patience=0)
    first, _, before = run_schedule(losses[: 2 * cut], schedule_patience=0)
    second = PlateauSchedule(optimizer_of(nn.Linear(1, 1), rate=before[-1]), schedule_interval=2, schedule_patience=0)
    second.load_state_dict(first.state_dict())
    _, _, after = run_schedule(losses[2 * cut :], schedule=second)
    assert before + after == pytest.approx(rates)
    assert second.state_dict() == whole.state_dict()
