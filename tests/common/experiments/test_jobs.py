"""Jobs in processes of their own: one that fails, or is killed, does not stop the others."""

import json
import multiprocessing
import signal
import time
from dataclasses import replace
from functools import partial

import pytest

from common.errors import ConfigError, MissingDataError
from common.experiments.jobs import Job, Progress, run_jobs

STAMP = "import json, time; start = time.time(); time.sleep(0.4); json.dump([start, time.time()], open({path!r}, 'w'))"


@pytest.fixture
def job(tmp_path):
    """Makes a job that runs a piece of code; ``{path}`` in it is a file of its own."""

    def make(name, code, *shared):
        path = str(tmp_path / f"{name}.json")
        work = partial(exec, code.format(path=path), {}) if isinstance(code, str) else code
        return Job(name, tmp_path / name, work, frozenset(shared))

    return make


@pytest.fixture
def times(tmp_path):
    """When a job began and ended."""
    return lambda name: json.loads((tmp_path / f"{name}.json").read_text())


def overlap(first, second):
    return first[0] < second[1] and second[0] < first[1]


def test_two_at_a_time_with_one_thread_each(job, times, tmp_path, caplog):
    caplog.set_level("INFO")
    code = STAMP + "; import torch, os; print(torch.get_num_threads(), os.getpid())"
    ended = []
    jobs = [job(name, code) for name in "abc"]
    assert run_jobs(jobs, processes=2, finished=lambda done: ended.append(done.name)) == {}
    assert sorted(ended) == ["a", "b", "c"]
    assert overlap(times("a"), times("b"))
    assert times("c")[0] >= min(times("a")[1], times("b")[1])
    logs = [(tmp_path / name / "log.txt").read_text().split() for name in "abc"]
    assert [log[0] for log in logs] == ["1"] * 3
    assert len({log[1] for log in logs}) == 3, "processes of their own"
    assert "3 of 3 runs ended, 0 failed" in caplog.text


def test_what_is_shared_is_made_by_one_and_then_used_by_many(job, times):
    jobs = [job("a", STAMP, "base"), job("b", STAMP, "base"), job("c", STAMP, "base"), job("d", STAMP)]
    assert run_jobs(jobs, processes=3, finished=lambda done: None) == {}
    assert overlap(times("a"), times("d")), "others need not wait"
    assert times("b")[0] >= times("a")[1]
    assert times("c")[0] >= times("a")[1]
    assert overlap(times("b"), times("c"))


def test_job_waits_for_the_one_it_needs_and_fails_with_it(job, times, tmp_path):
    first, second = job("first", STAMP), replace(job("second", STAMP), after="first")
    broken, lost = job("broken", "1 / 0"), replace(job("lost", STAMP), after="broken")
    last, free = replace(job("last", STAMP), after="lost"), replace(job("free", STAMP), after="done before")
    failed = run_jobs([last, lost, second, first, broken, free], processes=3, finished=lambda done: None)
    assert times("second")[0] >= times("first")[1]
    assert times("free")
    assert set(failed) == {"broken", "lost", "last"}
    assert failed["last"] == "lost, whose results it needs, failed"
    assert not (tmp_path / "lost.json").exists()


def test_failures_are_told_and_the_others_go_on(job, times, tmp_path, caplog):
    def finish(done):
        if done.name == "empty":
            raise MissingDataError("no measures in it")

    fine = job("fine", STAMP)
    own = "from common.errors import LabelError\ntry:\n  raise LabelError('a label')\n"
    own += "except LabelError as error:\n  raise RuntimeError('x') from error"
    failing = [
        job("own", own), job("other", partial(int, "x")), job("killed", partial(signal.raise_signal, signal.SIGKILL)),
        job("empty", "pass"),
    ]  # fmt: skip
    failed = run_jobs([*failing, fine], processes=2, finished=finish)
    assert failed == {
        "own": f"a label (see {tmp_path / 'own' / 'log.txt'})",
        "other": "ValueError: invalid literal for int() with base 10: 'x' (see " + f"{tmp_path / 'other' / 'log.txt'})",
        "killed": f"ended with status -9 (see {tmp_path / 'killed' / 'log.txt'})",
        "empty": "no measures in it",
    }
    assert times("fine")
    assert "killed failed: ended with status -9" in caplog.text


def test_job_whose_predecessor_failed_makes_what_they_share(job, times):
    failed = run_jobs([job("a", "1 / 0", "base"), job("b", STAMP, "base")], processes=2, finished=lambda done: None)
    assert list(failed) == ["a"]
    assert times("b")


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """A killed experiment must not go on training behind the back of the one that is started in its place."""
    beat = tmp_path / "beat"
    code = f"import time\nwhile True:\n  open({str(beat)!r}, 'a').write('.'); time.sleep(0.05)"
    program = (
        "import multiprocessing, time; from functools import partial; from common.experiments.jobs import _work\n"
        f"arguments = (partial(exec, {code!r}, {{}}), {str(tmp_path / 'log.txt')!r})\n"
        "multiprocessing.get_context('fork').Process(target=_work, args=arguments).start(); time.sleep(1000)"
    )
    parent = multiprocessing.get_context("forkserver").Process(target=exec, args=(program, {}))
    parent.start()
    assert_soon(lambda: beat.is_file() and beat.stat().st_size > 2)
    parent.kill()
    parent.join()

    def silent():
        before = beat.stat().st_size
        time.sleep(0.3)
        return beat.stat().st_size == before

    assert_soon(silent)


def assert_soon(true, seconds=60):
    """Waits until a function returns true, and fails where it does not within the time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_there_must_be_a_process():
    with pytest.raises(ConfigError, match="processes is 0; accepted are numbers from 1"):
        run_jobs([], processes=0, finished=print)


def test_time_left_follows_from_the_runs_that_ended_well():
    progress = Progress(5, 2)
    assert progress.count("a", 60, failed=True) == "1 of 5 runs ended, 1 failed; the last: a"
    assert progress.count("b", 60, failed=False).endswith(
        "2 of 5 runs ended, 1 failed; the last: b; about 0:01:30 left"
    )
    assert progress.count("c", 3600, failed=True).endswith("about 0:01:00 left")
    assert progress.count("d", 120, failed=False).endswith("about 0:00:45 left")
    assert progress.count("e", 60, failed=False) == "5 of 5 runs ended, 2 failed; the last: e"
