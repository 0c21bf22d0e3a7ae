"""Times the iterations of a bundle's own trainer: what comes before the step, and the step.

Seconds are those of the processor, with one thread: on an idle machine those of the clock, on a busy one hardly more.

``python -m tests.benchmarks.steps REQUEST`` does so on demand, see :class:`RemoteTrainer`. Nothing of the shared
package is imported here, so that the bundles of another checkout can be measured by the same code.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch.profiler import ProfilerActivity, profile

from common.runtime.model_settings import with_defaults
from tests.running import importable

ROOT = Path(__file__).resolve().parents[2]
ITERATIONS = 2
"""Iterations of an epoch."""
VOLUMES = {"roi_size": [32, 32, 32], "batch_size": 4}
"""What volumes are trained on here, a patch that every phantom holds; pictures have what their config says."""
ENDLESS = {"max_epochs": 1_000_000, "val_interval": 1_000_000, "iterations": None, "phantom_cases": 6, "device": "cpu"}


class StepSeconds(NamedTuple):
    """Seconds of the processor for one iteration, or the medians of several.

    ``pipeline`` is from asking for the batch until the step begins: loading, collating, and what events do with the
    batch. ``step`` is the step, and what events do after it.
    """

    pipeline: float
    step: float

    @property
    def share(self):
        """The pipeline's part of the whole, in [0, 1]."""
        return self.pipeline / (self.pipeline + self.step)


def medians(steps):
    """The median of either part."""
    return StepSeconds(*(median(part) for part in zip(*steps, strict=True)))


def read_config(bundle):
    return with_defaults(ConfigParser.load_config_file(Path(bundle, "configs", "train.json")))


def trainers_of(bundle):
    """The blocks of a bundle's ``train.json`` that have a trainer."""
    return [block for block in ("denoise", "train") if "trainer" in read_config(bundle).get(block, {})]


def realistic(bundle):
    """The patch and the batch that a bundle is measured with."""
    config = read_config(bundle)
    return VOLUMES if config["spatial_dims"] == 3 else {key: config[key] for key in VOLUMES}


class StepClock:
    """Times the iterations of an engine by its events, and the operators of one step where ``profiler`` is given."""

    def __init__(self, engine):
        self.steps, self.profiler = [], None
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _ask(self, _engine):
        self._asked = time.process_time()

    def _begin(self, _engine):
        # One step alone is looked at, the second.
        if self.profiler is not None and len(self.steps) == 1:
            self.profiler.start()
        self._begun = time.process_time()

    def _end(self, _engine):
        self.steps.append(StepSeconds(self._begun - self._asked, time.process_time() - self._begun))
        if self.profiler is not None and len(self.steps) == 2:
            self.profiler.stop()


class TimedTrainer:
    """The trainer of a bundle on phantoms, in memory, on the CPU; its own events tell the time.

    ``settings`` are those of ``train.json``. The bundle must be importable as long as this is used.
    """

    def __init__(self, bundle, output_dir, block="train", **settings):
        self.parser = ConfigParser()
        self.parser.read_config(read_config(bundle))
        self.batch_size = settings.get("batch_size", self.parser["batch_size"])
        given = ENDLESS | {"output_dir": str(output_dir), "samples_per_epoch": ITERATIONS * self.batch_size} | settings
        self.parser.update({key: value for key, value in given.items() if "#" in key or key in self.parser.config})
        self.trainer = self.parser.get_parsed_content(f"{block}#trainer")
        self.clock = StepClock(self.trainer)

    def epoch(self):
        """Trains an epoch more and returns the times of its iterations."""
        self.clock.steps = []
        self.trainer.state.max_epochs = self.trainer.state.epoch + 1
        # A line for every epoch would stand among the figures.
        logging.disable(logging.INFO)
        try:
            self.trainer.run()
        finally:
            logging.disable(logging.NOTSET)
        return self.clock.steps

    def operators(self):
        """Name, calls and seconds of each operator in one step, without the operators that it calls."""
        self.clock.profiler = profile(activities=[ProfilerActivity.CPU])
        self.epoch()
        events, self.clock.profiler = self.clock.profiler.key_averages(), None
        rows = [(event.key, event.count, event.self_cpu_time_total / 1e6) for event in events]
        return sorted(rows, key=lambda row: -row[2])


class RemoteTrainer:
    """A :class:`TimedTrainer` in a process of its own, which waits until it is asked.

    With two of them, perhaps of two checkouts, epochs are run in turn, so that drifts of the machine cancel.
    """

    def __init__(self, bundle, block="train", **settings):
        request = json.dumps({"bundle": str(bundle), "block": block} | settings)
        command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.steps", request]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def _ask(self, what):
        # A process that has ended gives no answer, which is told below.
        with suppress(BrokenPipeError):
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return json.loads(answer)

    def epoch(self):
        return [StepSeconds(*step) for step in self._ask("epoch")]

    def operators(self):
        return [tuple(row) for row in self._ask("operators")]

    def close(self):
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def closing_all(trainers):
    """Ends the processes of all trainers."""
    try:
        yield trainers
    finally:
        for trainer in trainers:
            trainer.close()


def answer_requests(request):
    """Does what each line of the standard input asks for."""
    # Whatever else is printed must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    settings = json.loads(request)
    bundle = settings.pop("bundle")
    with tempfile.TemporaryDirectory() as folder, importable(bundle):
        timed = TimedTrainer(bundle, folder, settings.pop("block"), **settings)
        for line in sys.stdin:
            answers.write(json.dumps(getattr(timed, line.strip())()) + "\n")
            answers.flush()


if __name__ == "__main__":
    answer_requests(sys.argv[1])
