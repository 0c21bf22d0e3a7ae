import pytest
import torch
from ignite.engine import Engine, Events
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks import steps, tables
from tests.benchmarks.steps import ITERATIONS, ROOT, RemoteTrainer, StepClock, StepSeconds, closing_all, medians


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only what is tested adds to."""
    seconds = [0.0]
    monkeypatch.setattr(steps.time, "process_time", lambda: seconds[0])
    return seconds


def test_iteration_is_split_where_the_step_begins(clock):
    def spend(seconds):
        clock[0] += seconds

    def batches():
        for _ in range(2):
            spend(1)
            yield 0

    engine = Engine(lambda _engine, _batch: spend(10))
    engine.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: spend(2))
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: spend(20))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: spend(500))
    timed = StepClock(engine)
    engine.run(batches(), max_epochs=1, epoch_length=2)
    assert timed.steps == [StepSeconds(3, 30)] * 2
    assert timed.steps[0].share == pytest.approx(1 / 11)


def test_one_step_is_profiled_without_its_batch():
    engine = Engine(lambda _engine, _batch: torch.zeros(4).exp())
    engine.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: torch.zeros(4).sin())
    timed = StepClock(engine)
    timed.profiler = profile(activities=[ProfilerActivity.CPU])
    engine.run([0, 0, 0], max_epochs=1)
    calls = {event.key: event.count for event in timed.profiler.key_averages()}
    assert calls["aten::exp"] == 1
    assert "aten::sin" not in calls


def test_median_of_either_part():
    assert medians([StepSeconds(1, 9), StepSeconds(3, 7), StepSeconds(2, 20)]) == StepSeconds(2, 9)


def test_trainer_of_another_process_answers():
    tiny = {"roi_size": [16, 16, 16], "network_def#features": [4, 8], "phantom_cases": 3}
    with closing_all([RemoteTrainer(ROOT / "bundles" / "spectral_ood", **tiny)]) as (trainer,):
        assert all(seconds > 0 for step in trainer.epoch() for seconds in step)
        assert len(trainer.epoch()) == ITERATIONS
        assert "aten::convolution_backward" in [name for name, _, _ in trainer.operators()]
    assert trainer.process.returncode == 0


def test_process_that_ends_is_an_error_not_a_wait(monkeypatch):
    monkeypatch.setattr(steps.sys, "executable", "false")
    with (
        closing_all([RemoteTrainer(ROOT / "bundles" / "none")]) as (trainer,),
        pytest.raises(RuntimeError, match="none"),
    ):
        trainer.epoch()


def test_table_has_the_medians_of_both_checkouts_after_a_warm_up(monkeypatch):
    class Trainer:
        def __init__(self, folder, block, **settings):
            step = 1.0 if folder.is_relative_to(ROOT) else 3.0
            self.epochs = iter([[StepSeconds(100, 100)], [StepSeconds(1, step)], [StepSeconds(1, step)]])

        def epoch(self):
            return next(self.epochs)

        def close(self):
            pass

    monkeypatch.setattr(tables, "RemoteTrainer", Trainer)
    monkeypatch.setattr(tables, "trainers_of", lambda _folder: ["train"])
    monkeypatch.setattr(tables, "realistic", lambda _folder: {"roi_size": [8, 4], "batch_size": 2})
    assert list(tables.step_table(["one"], ["/before", ROOT], repeats=2)) == [
        "| bundle | trainer | batch | before, pipeline, s | before, step, s | before, pipeline's share "
        "| after, pipeline, s | after, step, s | after, pipeline's share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| one | train | 2 x 8x4 | 1.000 | 3.000 | 25.0% | 1.000 | 1.000 | 50.0% |",
    ]
