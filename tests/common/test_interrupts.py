import os
import pydoc
import signal
import sys
import threading

import pytest

from common.runtime.error_report import report_error
from common.runtime.interrupts import NAMES, Interrupted, Interrupts, undisturbed, watch_signals

SIGNALS = sorted(NAMES)


@pytest.fixture(autouse=True)
def as_before():
    """Gives this process its own handlers back."""
    before = {number: signal.getsignal(number) for number in NAMES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_here(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_what_runs_but_is_no_failure_of_a_case(number):
    watch_signals()
    with pytest.raises(Interrupted) as caught:
        raise_here(number)
    assert caught.value.status == 128 + number
    assert not isinstance(caught.value, Exception)


def held(number, done, error=None):
    """Two blocks that belong together, in the inner of which a signal comes."""
    with undisturbed():
        with undisturbed():
            raise_here(number)
            done.append("inner")
        done.append("outer")
        if error:
            raise error


@pytest.mark.parametrize("number", SIGNALS)
def test_what_belongs_together_is_finished_first(number):
    watch_signals()
    done = []
    with pytest.raises(Interrupted):
        held(number, done)
    assert done == ["inner", "outer"]
    with undisturbed():
        done.append("again")
    assert done[-1] == "again"


def test_error_inside_goes_on_and_the_signal_is_not_forgotten():
    watch_signals()
    with pytest.raises(ValueError, match="own"):
        held(signal.SIGTERM, [], ValueError("own"))
    with pytest.raises(Interrupted, match="SIGTERM"), undisturbed():
        pass


def test_without_a_watch_nothing_is_kept_waiting():
    assert not isinstance(signal.getsignal(signal.SIGINT), Interrupts)
    done = []
    with pytest.raises(KeyboardInterrupt):
        held(signal.SIGINT, done)
    assert done == []


def test_ignored_signals_stay_ignored():
    # A job that a shell starts in the background must not end by Ctrl-C meant for another.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch_signals()
    raise_here(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_nothing():
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=watch_signals)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "line"), [(signal.SIGINT, "ended by Ctrl-C"), (signal.SIGTERM, "ended by SIGTERM")])
@pytest.mark.tried("Runs that are stopped", "Ctrl-C and SIGTERM", "One line, no traceback, exit status 130 or 143.")
def test_program_ends_with_one_line_and_the_status_of_the_signal(number, line, capsys):
    error = Interrupted(number)
    with pytest.raises(SystemExit) as caught:
        report_error(Interrupted, error, None)
    assert caught.value.code == error.status
    assert capsys.readouterr().err == f"{line}\n"


def imported(error):
    """What MONAI and ``pydoc`` make of an error that comes while a module is imported."""
    wrapped = pydoc.ErrorDuringImport("module.py", (type(error), error, None))
    outer = RuntimeError("Failed to instantiate")
    outer.__cause__ = wrapped
    return outer


def linked(error):
    """An error that came while another was handled."""
    outer = ValueError("on the way out")
    outer.__context__ = error
    return outer


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("wrap", [imported, linked])
def test_program_ends_so_too_where_a_library_has_wrapped_the_interruption(number, wrap, capsys):
    error = wrap(Interrupted(number))
    with pytest.raises(SystemExit) as caught:
        report_error(type(error), error, None)
    assert caught.value.code == 128 + number
    assert capsys.readouterr().err == f"ended by {NAMES[number]}\n"


def test_program_ends_so_too_while_pydoc_imports_a_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "stopped_import.py").write_text(
        "from common.runtime.interrupts import Interrupted\nraise Interrupted(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pydoc.ErrorDuringImport) as wrapped:
        pydoc.safeimport("stopped_import")
    with pytest.raises(SystemExit) as caught:
        report_error(wrapped.type, wrapped.value, wrapped.tb)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "ended by Ctrl-C\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_interpreter_ends_with_that_status(run_python, number, tmp_path):
    folder = next(path for path in sys.path if os.path.isdir(os.path.join(path, "common")))
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import os\n"
        f"from common.runtime.session import start_session\n"
        f"start_session(0); os.kill(os.getpid(), {int(number)}); print('went on')"
    )
    result = run_python(["-c", code], cwd=tmp_path)
    assert (result.returncode, result.stdout) == (128 + number, "")
    assert result.stderr == f"ended by {NAMES[number]}\n"
