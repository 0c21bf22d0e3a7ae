import importlib
import sys
import time

import pytest

from common import bench
from common.bench import paired_ratio


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


def test_scripts_are_those_of_one_bundle_while_it_is_measured(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "scripts").mkdir(parents=True)
        (tmp_path / name / "scripts" / "__init__.py").write_text(f"name = {name!r}\n")
        (tmp_path / name / "scripts" / "part.py").touch()
    path, modules, found = list(sys.path), set(sys.modules), []
    for name in ("one", "two", "one"):
        with bench._importable(str(tmp_path / name)):
            importlib.invalidate_caches()
            found.append(importlib.import_module("scripts").name)
            importlib.import_module("scripts.part")
        assert sys.path == path
        assert set(sys.modules) == modules
    assert found == ["one", "two", "one"]


def test_scripts_are_forgotten_after_an_error(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "scripts_of_another.py").touch()
    path = list(sys.path)

    def measure():
        with bench._importable(str(tmp_path)):
            importlib.import_module("scripts_of_another")
            importlib.import_module("scripts")

    with pytest.raises(RuntimeError, match="broken"):
        measure()
    assert sys.path == path
    assert "scripts" not in sys.modules
    assert sys.modules.pop("scripts_of_another")
