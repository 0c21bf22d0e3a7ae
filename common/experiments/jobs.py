"""Works through jobs in processes of one thread each: goes on when one fails, and says how long the rest will take."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ..errors import BundleError, ConfigError
from ..runtime.progress import Bar, listed, time_text
from ..runtime.reasons import error_line

logger = logging.getLogger(__name__)

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WARM = ["monai.bundle", "monai.apps", "torch.utils.tensorboard", "torch._dynamo", "matplotlib.pyplot"]
"""What processes import once for all, where the system can fork them from a server; optimizers import ``_dynamo``."""

LOG = "log.txt"


@dataclass(frozen=True)
class Job:
    """Work for a process of its own.

    Args:
        name: Name of the job in the log.
        folder: Folder of ``log.txt``, which takes all that the process writes.
        work: Function that does the work; it must be picklable.
        shared: Folders that it has in common with other jobs. While none of these has finished, it runs alone among
            them, so that what they share is made once. Default none.
        after: Name of the job whose results it needs, where that is one of these jobs; it waits for its end, and fails
            with it. Default none.
    """

    name: str
    folder: Path
    work: Callable[[], None]
    shared: frozenset[str] = field(default_factory=frozenset)
    after: str | None = None


def run_jobs(jobs: Sequence[Job], *, processes: int, finished: Callable[[Job], None]) -> dict[str, str]:
    """Does all jobs, as many at a time as there are processes, and logs progress with the time left.

    Args:
        jobs: Jobs, in the order in which they start, as far as what they share lets them.
        processes: Number of processes, at least 1.
        finished: Function that is called in this process after every job that ended well; its errors count as those of
            the job.

    Returns:
        Name of each job that failed -> why, in one line; the others were done.

    Raises:
        ConfigError: When there is no process.
    """
    if processes < 1:
        raise ConfigError(f"processes is {processes}; accepted are numbers from 1")
    waiting, running, failed = list(jobs), dict[Any, tuple[Job, Any, float]](), dict[str, str]()
    progress, made = Progress(len(jobs), processes), set[str]()
    with _one_thread() as context, progress:
        try:
            while waiting or running:
                startable = _startable(waiting, [job for job, _, _ in running.values()], made)
                for job in startable[: processes - len(running)]:
                    waiting.remove(job)
                    process = context.Process(target=_work, args=(job.work, str(job.folder / LOG)), name=job.name)
                    job.folder.mkdir(parents=True, exist_ok=True)
                    process.start()
                    running[process.sentinel] = (job, process, time.monotonic())
                for sentinel in connection.wait(list(running)):
                    job, process, start = running.pop(sentinel)
                    process.join()
                    reason = _reason(job, process.exitcode) or _finish(job, finished)
                    if reason:
                        failed[job.name] = reason
                        logger.error("%s failed: %s", job.name, reason)
                    else:
                        made |= job.shared
                    logger.info("%s", progress.count(job.name, time.monotonic() - start, failed=bool(reason)))
                while stranded := next((job for job in waiting if job.after in failed), None):
                    waiting.remove(stranded)
                    failed[stranded.name] = f"{stranded.after}, whose results it needs, failed"
                    logger.info("%s", progress.count(stranded.name, 0.0, failed=True))
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.join()
    return failed


class Progress:
    """Counts jobs and estimates the time left from those that ended well; as a context it shows a bar on a terminal.

    Args:
        total: Number of jobs.
        processes: Number of jobs at a time.
    """

    def __init__(self, total: int, processes: int) -> None:
        self.total, self.processes = total, processes
        self.seconds: list[float] = []
        self.failed = 0
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        self.bar = Bar(self.total, "runs")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close(keep=kind is not None)

    def count(self, name: str, seconds: float, *, failed: bool) -> str:
        """Counts a job and returns a line for the log.

        Args:
            name: Name of the job.
            seconds: Time that it took, in seconds.
            failed: Whether it failed.
        """
        self.failed += failed
        self.seconds += [] if failed else [seconds]
        ended = len(self.seconds) + self.failed
        line = f"{ended} of {self.total} runs ended, {self.failed} failed; the last: {name}"
        told = ""
        if ended < self.total and self.seconds:
            left = (self.total - ended) * sum(self.seconds) / len(self.seconds) / self.processes
            told = f"about {time_text(left)} left"
        if self.bar is not None:
            self.bar.draw(ended, listed(f"{self.failed} failed", told))
        return "; ".join(filter(None, (line, told)))


def _startable(waiting: Sequence[Job], running: Sequence[Job], made: set[str]) -> list[Job]:
    """Jobs that may start now, in their order: of those that share what is not made yet, one at a time."""
    taken = {folder for job in running for folder in job.shared - made}
    unfinished = {job.name for job in [*waiting, *running]}
    found = []
    for job in waiting:
        if not job.shared & taken and job.after not in unfinished:
            found.append(job)
            taken |= job.shared - made
    return found


def _work(work: Callable[[], None], log: str) -> None:
    """What a process does: the work, with one thread, all it writes in a file of its own."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)
    try:
        work()
    except Exception as error:  # whatever a run raises is a line of the report, and the other runs go on
        traceback.print_exc()
        sys.stderr.write(f"error: {error_line(error)}\n")
        sys.exit(1)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone: another may do the same work again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reason(job: Job, status: int | None) -> str:
    """Why a process did not end well, empty when it did."""
    if status == 0:
        return ""
    lines = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    told = next((line.removeprefix("error: ") for line in lines[-1:] if line.startswith("error: ")), "")
    return f"{told or f'ended with status {status}'} (see {job.folder / LOG})"


def _finish(job: Job, finished: Callable[[Job], None]) -> str:
    """Why the results of a job cannot be used, empty when they are."""
    try:
        finished(job)
    except BundleError as error:
        return error_line(error)
    return ""


@contextmanager
def _one_thread() -> Iterator[Any]:
    """Gives the way to start processes, whose libraries have one thread each."""
    kept: Mapping[str, str | None] = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if server else "spawn")
    if server:
        context.set_forkserver_preload(WARM)
    try:
        yield context
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
