import logging
import sys
import threading

import pytest

from common.experiments.jobs import Progress as Runs
from common.runtime.progress import Bar, Pace, Progress, has_terminal, rate_text, time_text

NAME = "common.runtime.progress"


def work(clock, steps, *, seconds=1.0, **settings):
    """Works on so many cases, each of which takes so long."""
    with Progress("fitting", steps, "cases", clock=clock) as progress:
        for _ in range(steps):
            clock.now += seconds
            progress.advance(**settings)


def test_rate_and_time_left_follow_from_what_this_process_did(clock):
    pace = Pace(100, done=40, clock=clock)
    clock.now += 5
    pace.done = 50
    assert (pace.seconds, pace.rate, pace.left) == (5, 2, 25)


def test_nothing_is_said_of_a_rate_before_anything_is_done(clock):
    pace = Pace(10, done=3, clock=clock)
    clock.now += 5
    assert rate_text(pace.rate, "cases") == ""
    assert time_text(pace.left) == "?"


@pytest.mark.parametrize(
    ("rate", "text"), [(99.4, "99.4 a/s"), (99.6, "100 a/s"), (1.0, "1.0 a/s"), (0.5, "0.50 a/s"), (0.004, "0.004 a/s")]
)
def test_rates_have_few_digits(rate, text):
    assert rate_text(rate, "a") == text


class TestWithoutTerminal:
    def test_lines_are_half_a_minute_apart_and_the_last_tells_the_time(self, clock, caplog, capsys):
        caplog.set_level("INFO", NAME)
        work(clock, 8, seconds=10, note="1 failed")
        assert caplog.messages == [
            "fitting: 3 of 8 cases, 1 failed, 0.10 cases/s, 0:00:50 left",
            "fitting: 6 of 8 cases, 1 failed, 0.10 cases/s, 0:00:20 left",
            "fitting: 8 of 8 cases in 0:01:20, 1 failed",
        ]
        assert capsys.readouterr() == ("", "")

    def test_part_of_other_work_has_no_last_line(self, clock, caplog):
        caplog.set_level("INFO", NAME)
        with Progress("an image", 6, "windows", part=True, clock=clock) as progress:
            for _ in range(3):
                clock.now += 20
                progress.advance(2)
        assert caplog.messages == ["an image: 4 of 6 windows, 0.10 windows/s, 0:00:20 left"]

    def test_short_work_is_one_line(self, clock, caplog):
        caplog.set_level("INFO", NAME)
        work(clock, 3)
        assert caplog.messages == ["fitting: 3 of 3 cases in 0:00:03"]

    def test_what_is_passed_over_tells_nothing_of_the_rate(self, clock, caplog):
        caplog.set_level("INFO", NAME)
        with Progress("fitting", 100, "cases", clock=clock) as progress:
            progress.advance(50, passed_over=True)
            clock.now += 40
            progress.advance(10)
        assert caplog.messages[0] == "fitting: 60 of 100 cases, 0.25 cases/s, 0:02:40 left"

    def test_items_count_when_they_are_done(self, clock, caplog):
        caplog.set_level("INFO", NAME)
        with Progress("fitting", 9, "cases", clock=clock) as progress:
            for batch in progress.over(["abc", "def", "ghi"], len):
                clock.now += 20
                assert progress.pace.done % 3 == 0
                assert len(batch) == 3
        assert caplog.messages == [
            "fitting: 6 of 9 cases, 0.15 cases/s, 0:00:20 left",
            "fitting: 9 of 9 cases in 0:01:00",
        ]

    def test_after_an_error_there_is_no_last_line(self, clock, caplog):
        caplog.set_level("INFO", NAME)
        with pytest.raises(KeyboardInterrupt), Progress("fitting", 3, "cases", clock=clock):
            raise KeyboardInterrupt
        assert caplog.messages == []


class TestOnTerminal:
    def test_bar_shows_count_rate_and_time_left_and_is_wiped_at_the_end(self, clock, terminal):
        work(clock, 4, seconds=2)
        assert "fitting:  25%|" in terminal.written()
        assert "| 1/4, 0.50 cases/s, 0:00:06 left\r" in terminal.written()
        assert terminal.seen() == ["fitting: 4 of 4 cases in 0:00:08", ""]

    def test_bar_is_drawn_once_a_second(self, clock, terminal):
        work(clock, 40, seconds=0.25)
        # The empty bar, one for every second, and blanks over the last one.
        assert terminal.written().count("fitting: ") == 1 + 10 + 1
        assert terminal.written().count("%|") == 1 + 10

    def test_lines_of_the_log_stand_above_the_bar(self, clock, terminal):
        with Progress("fitting", 2, "cases", clock=clock) as progress:
            logging.getLogger("some.library").warning("a line")
            clock.now += 1
            progress.advance()
            seen = terminal.seen()
        assert seen[0] == "a line"
        assert seen[1].startswith("fitting:  50%|")
        assert len(seen) == 2
        assert terminal.seen() == ["a line", "fitting: 1 of 2 cases in 0:00:01", ""]

    def test_handlers_of_the_log_are_as_they_were(self, clock, terminal):
        before = list(logging.getLogger().handlers)
        with Progress("fitting", 2, "cases", clock=clock):
            assert terminal.handler not in logging.getLogger().handlers
        assert logging.getLogger().handlers == before

    def test_interruption_leaves_the_bar_and_a_new_line(self, clock, terminal):
        def fail():
            clock.now += 1
            yield "the first"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Progress("fitting", 2, "cases", clock=clock) as progress:
            list(progress.over(fail()))
        assert terminal.seen()[0].startswith("fitting:  50%|")
        assert terminal.written().endswith("\r\n")
        sys.stderr.write("ended by Ctrl-C\n")
        assert terminal.seen()[1:] == ["ended by Ctrl-C", ""]

    def test_runs_of_an_experiment(self, terminal):
        with Runs(3, 1) as runs:
            runs.count("a", 60, failed=False)
            runs.count("b", 10, failed=True)
        assert "| 0/3\r" in terminal.written()
        assert "| 1/3, 0 failed, about 0:02:00 left\r" in terminal.written()
        assert "| 2/3, 1 failed, about 0:01:00 left\r" in terminal.written()
        assert terminal.seen() == [""]


def no_bar(terminal, clock):
    """Whether nothing is drawn, and lines of the log take its place."""
    assert not has_terminal()
    work(clock, 4, seconds=20)
    return terminal.seen() == [
        "fitting: 2 of 4 cases, 0.05 cases/s, 0:00:40 left",
        "fitting: 4 of 4 cases in 0:01:20",
        "",
    ] and "\r" not in terminal.written().replace("\r\n", "")


class TestNoBar:
    def test_on_a_dumb_terminal(self, clock, terminal, monkeypatch):
        assert has_terminal()
        monkeypatch.setenv("TERM", "dumb")
        assert no_bar(terminal, clock)

    def test_by_other_processes_of_a_distributed_run(self, clock, terminal, monkeypatch):
        monkeypatch.setattr("common.runtime.distributed.process_rank", lambda: 1)
        assert no_bar(terminal, clock)

    def test_by_processes_that_others_started(self, clock, terminal, monkeypatch):
        monkeypatch.setattr("multiprocessing.parent_process", object)
        assert no_bar(terminal, clock)

    def test_by_other_threads(self, terminal):
        told = []
        thread = threading.Thread(target=lambda: told.append(Bar(3, "fitting").visible))
        thread.start()
        thread.join()
        assert told == [False]
        assert terminal.written() == ""
