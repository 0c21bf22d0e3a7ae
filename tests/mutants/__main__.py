"""``python -m tests.mutants``: how many of a random sample of small changes the tests notice; see ``make mutants``.

Each mutant is put into a copy of the repository, where the tests that belong to its module run until the first fails.
The process that runs them is forked with the large packages imported.
"""

import argparse
import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import connection, get_context
from pathlib import Path

import monai.bundle  # noqa: F401
import pytest
import torch

from tests.mutants.mutations import count_mutants, mutate

logger = logging.getLogger(__name__)
REPOSITORY = Path(__file__).resolve().parents[2]
COMMON = "tests/common"
MODULES = {
    "spectral": ("common/spectral/*.py", ["test_spectral_*.py", "test_fitting.py", "test_transforms_verdict.py"]),
    "class_weights": ("common/class_weights/*.py", ["test_class_weights*.py"]),
    "double_mix": (
        "common/double_mix/*.py",
        ["test_double_mix.py", "test_cotraining*.py", "test_weighted_losses.py", "test_networks_pair.py"],
    ),
    "ood_mining": (
        "common/ood_mining/[lprs]*.py",
        [
            f"ood_mining/test_{name}.py"
            for name in ("loss", "patches", "proportion", "removal", "scoring", "training", "stages")
        ],
    ),
    "contrast": ("common/contrast/losses.py", ["contrast/test_losses.py"]),
    "denoising": ("common/denoising/[ns]*e.py", ["test_denoising_noise.py", "test_denoising_score.py"]),
    "archive": ("common/archive/[vs]*.py", ["archive"]),
}
"""Package -> its modules, and the tests that belong to them, below ``tests/common``."""
FURTHER = {
    "double_mix": [
        f"test_{name}.py" for name in ("data_semi_supervised", "halves_loader", "handlers_cotraining", "preflight")
    ],
    "spectral": ["test_bank_rules.py"],
}
"""Tests that run last."""


def find_tests(package):
    patterns = MODULES[package][1] + FURTHER.get(package, [])
    found = [path for pattern in patterns for path in sorted((REPOSITORY / COMMON).glob(pattern))]
    return [str(path.relative_to(REPOSITORY)) for path in found]


def sample(packages, number, seed):
    """So many mutants of each package, as (package, module, number of the mutant)."""
    drawn = []
    for package in packages:
        modules = sorted(path for path in REPOSITORY.glob(MODULES[package][0]) if path.name != "__init__.py")
        everyone = [
            (package, str(path.relative_to(REPOSITORY)), index)
            for path in modules
            for index in range(count_mutants(path.read_text(encoding="utf-8")))
        ]
        drawn += random.Random(seed).sample(everyone, min(number, len(everyone)))
    return drawn


def copy_repository(folder):
    """A copy of what git knows, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)


def run_tests(folder, tests):
    """In a forked process: exits with the status of pytest."""
    os.setsid()
    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(REPOSITORY)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("common", "tests")]:
        del sys.modules[name]
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    with open(folder / "output.txt", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))


class Slot:
    """A copy of the repository in which one mutant at a time is tested."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        copy_repository(folder)

    def start(self, package, module, number, limit):
        self.job, self.deadline = (package, module), time.monotonic() + limit
        self.source = source = (self.folder / module).read_text(encoding="utf-8")
        mutant, self.told = mutate(source, number) if number is not None else (source, "unchanged")
        (self.folder / module).write_text(mutant, encoding="utf-8")
        arguments = (self.folder, [*find_tests(package), module])
        self.process = get_context("fork").Process(target=run_tests, args=arguments)
        self.process.start()

    def finished(self):
        """``None`` while the tests run, then the exit status, which is that of a signal after the time limit."""
        if self.process.exitcode is None and time.monotonic() > self.deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        return self.process.exitcode

    def restore(self):
        (self.folder / self.job[1]).write_text(self.source, encoding="utf-8")
        self.process = None


def judge(jobs, slots, limit):
    """Runs the jobs in the slots; yields package, module, what was changed, and the exit status of its tests."""
    waiting, busy = list(jobs), []
    while waiting or busy:
        for slot in slots:
            if waiting and slot not in busy:
                slot.start(*waiting.pop(0), limit)
                busy.append(slot)
        connection.wait([slot.process.sentinel for slot in busy], timeout=1)
        for slot in list(busy):
            status = slot.finished()
            if status is not None:
                yield *slot.job, slot.told, status
                slot.restore()
                busy.remove(slot)


def measure(packages, number, seed, limit, processes):
    """Tests a sample of mutants and logs each survivor and the share that was killed, by package."""
    counts, survivors = defaultdict(list), []
    with tempfile.TemporaryDirectory() as folder:
        slots = [Slot(Path(folder) / str(index)) for index in range(processes)]
        mutants = sample(packages, number, seed)
        unchanged = {package: (package, module, None) for package, module, _ in mutants}
        for package, _, _, status in judge(unchanged.values(), slots, 10 * limit):
            assert status == 0, f"the tests of {package} fail without any mutant: {status}"
        for package, module, told, status in judge(mutants, slots, limit):
            assert status < 3, f"pytest could not run the tests of {package}: {status}"
            counts[package].append(status != 0)
            survivors += [f"{module} {told}"] if status == 0 else []
            logger.info("%s %s %s", "killed  " if status else "SURVIVED", module, told)
    for package, killed in counts.items():
        logger.info("%-14s %3d of %3d killed", package, sum(killed), len(killed))
    total = [value for killed in counts.values() for value in killed]
    logger.info("%-14s %3d of %3d killed (%.0f %%)", "all", sum(total), len(total), 100 * sum(total) / len(total))
    for line in survivors:
        logger.info("survivor: %s", line)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("packages", nargs="*", default=list(MODULES), help="of: " + ", ".join(MODULES))
    parser.add_argument("--number", type=int, default=10, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, default=120, help="seconds for the tests of one mutant")
    parser.add_argument("--processes", type=int, default=2, help="mutants at a time")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measure(given.packages, given.number, given.seed, given.limit, given.processes)


if __name__ == "__main__":
    main()
