"""Times of epochs: those of an earlier attempt count, the pause does not."""

import pytest
from ignite.engine import Engine

from common.handlers import TrainingHistory, TrainingTimes, read_times


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr("common.handlers.times.time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def train(tmp_path, clock):
    """Trains to an epoch, from a later one where it goes on; each of two iterations takes the seconds given."""

    def run(epochs, seconds, after=0):
        def step(engine, _batch):
            clock[0] += seconds

        engine = Engine(step)
        times = TrainingTimes(TrainingHistory(str(tmp_path), Engine(step), None))
        times.attach(engine)
        engine.state.epoch, engine.state.max_epochs, engine.state.epoch_length = after, epochs, 2
        engine.state.iteration = 2 * after
        engine.run([0, 0], max_epochs=epochs)
        return read_times(tmp_path / "times.csv")

    return run


def test_seconds_are_counted_from_the_start(train):
    assert train(2, 1.5) == [
        {"epoch": 1, "iteration": 2, "seconds": 3.0}, {"epoch": 2, "iteration": 4, "seconds": 6.0},
    ]  # fmt: skip


def test_pause_does_not_count_and_a_new_training_begins_at_zero(train, clock):
    train(3, 1.0)
    clock[0] += 1000
    resumed = train(4, 5.0, after=2)
    assert [row["seconds"] for row in resumed] == [2.0, 4.0, 14.0, 24.0], "the third epoch is done again"
    assert [row["epoch"] for row in resumed] == [1, 2, 3, 4]
    assert [row["seconds"] for row in train(1, 1.0)] == [2.0]


def test_only_the_main_process_writes(train, tmp_path, monkeypatch):
    monkeypatch.setattr("common.handlers.times.is_main_process", lambda: False)
    assert train(1, 1.0) == []
