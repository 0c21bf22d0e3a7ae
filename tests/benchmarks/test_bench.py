import time

import pytest

from tests.benchmarks import bench
from tests.benchmarks.bench import paired_ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the tasks move."""

    class Clock:
        now = 0.0

        def task(self, name, durations, order):
            steps = iter(durations)

            def run():
                order.append(name)
                self.now += next(steps)

            return run

    clock = Clock()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock.now)
    return clock


def test_ratio_is_the_median_of_pairs_after_a_warm_up(clock):
    order = []
    first = clock.task("first", [100.0, 2.0, 6.0, 3.0], order)
    second = clock.task("second", [1.0, 1.0, 1.5, 6.0], order)
    assert paired_ratio(first, second, repeats=3) == (2.0, [2.0, 4.0, 0.5])
    assert order == ["first", "second", "first", "second", "second", "first", "first", "second"]


def test_drift_of_the_machine_cancels(clock):
    order = []
    # Both tasks take the same, each run a little longer than the one before.
    slower = iter(range(10, 100))
    tasks = [clock.task(name, slower, order) for name in ("first", "second")]
    median, ratios = paired_ratio(*tasks, repeats=4)
    assert median == pytest.approx(1.0, abs=0.01)
    assert min(ratios) < 1 < max(ratios)


def test_real_clock_tells_a_longer_task():
    median, ratios = paired_ratio(lambda: time.sleep(0.02), lambda: time.sleep(0.005), repeats=3)
    assert median > 1.2
    assert len(ratios) == 3
