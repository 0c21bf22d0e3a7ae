"""Processes that tests start: forked with MONAI imported, and what they know of one another."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest


class Started:
    """A program that was started: ``output`` and ``error`` are files that grow while it runs."""

    def __init__(self, process, command, output, error):
        self.process, self.command, self.output, self.error = process, command, output, error

    def texts(self):
        """What it has written so far, as output and as errors."""
        return [file.read_text(encoding="utf-8", errors="replace") for file in (self.output, self.error)]

    def kill(self):
        """Ends it and what it started by SIGKILL."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()

    def wait(self, timeout=300):
        """Waits for its end and returns it as ``subprocess.run`` would."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *self.texts())


@pytest.fixture(scope="session")
def start_python(tmp_path_factory):
    """Starts ``python *command``, as of ``-m`` or ``-c``, without waiting: ``start(command, cwd=..., env=...)``.

    The process is forked with MONAI imported, see ``warm_python.py``. ``file_size`` limits the files that it writes.
    Pictures are rendered with ``pictures=True`` alone, as by ``run_config``.
    """
    from common.experiments.jobs import WARM  # takes seconds, which collecting the tests need not

    context = multiprocessing.get_context("forkserver")
    # Experiments in the process of the tests share the server.
    context.set_forkserver_preload([*WARM, "tests.blank"])
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clean_environment().items():
            patch.setenv(name, value)
        forkserver.ensure_running()

    def start(command, *, cwd, env=None, file_size=None, pictures=False):
        files = [Path(tempfile.mkstemp(dir=folder)[1]) for _ in range(2)]
        request = {"command": list(command), "cwd": str(cwd), "env": clean_environment() | (env or {})}
        request |= {"output": [str(file) for file in files], "file_size": file_size, "pictures": pictures}
        program = Path(__file__).with_name("warm_python.py")
        process = context.Process(target=runpy.run_path, args=(str(program), {"REQUEST": request}, "__main__"))
        process.start()
        return Started(process, command, *files)

    return start


@pytest.fixture(scope="session")
def run_python(start_python):
    """Runs ``python *command`` and returns the finished process; arguments as for ``start_python``."""
    return lambda command, **settings: start_python(command, **settings).wait()


@pytest.fixture(scope="session")
def run_ranks(start_python):
    """Runs ``python *command`` in so many processes that know of one another, and returns them finished."""

    def run(command, number, *, cwd, env=None):
        ranks = [(env or {}) | rank for rank in rank_environments(number)]
        started = [start_python(command, cwd=cwd, env=rank) for rank in ranks]
        return [process.wait() for process in started]

    return run


def rank_environments(number):
    """What ``torchrun`` tells each of the processes that it starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def clean_environment():
    """The environment of a user's shell: nothing of this process's Python path, one thread, no warnings, no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    python = {"PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | python | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def environment():
    return clean_environment()
