"""Runs experiments: a grid of runs of a bundle, whose rows are kept, reused, and made into a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, RunsFailedError
from ..runtime.interrupts import Interrupted
from .bundle_runs import STARTING, Bundle, BundleJob, weights_in
from .jobs import Job, run_jobs
from .plan import Plan, Run
from .report import load_rows, write_report
from .rows import Key, Row, name_rows, read_rows, same_place, write_rows
from .summary import with_ious

logger = logging.getLogger(__name__)

PHANTOMS = "phantoms"

Found = Mapping[Key, Sequence[Mapping[str, Any]]]
"""Rows of the runs that are done."""


class Grid:
    """Runs every arm on every data set, with every number of labels, seed and fold, and writes rows and a report.

    Rows of finished runs are kept in ``<output_dir>/<name>.csv``. A run is not done again when that file or the
    committed ``<results_dir>/<name>.csv`` has its rows. Those have the same settings and the same content of data,
    wherever they were made. A run that was killed goes on from its checkpoint.

    Args:
        bundle: The bundle whose ``train.json`` and ``evaluate.json`` are run.
        plan: Plan of the runs: data sets, arms, numbers of labels, seeds and folds.
        name: Name of the experiment and of its files.
        output_dir: Folder of the rows, of ``report`` and of a folder for each run.
        results_dir: Folder of committed rows, which are read and never written.
        reference: Arm that others are tested against.
        places: Options of ``train.json`` that change no result, such as ``device``. Default none.
        metrics: Metrics of the tables and curves, as far as runs have them; all others are in ``summary.csv``.
            Default ``dsc`` alone.
        processes: Number of runs at a time, at least 1, each in a process of one thread. Default 2.

    Raises:
        ConfigError: When ``reference`` is none of the arms.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: Plan,
        *,
        name: str,
        output_dir: str,
        results_dir: str,
        reference: str,
        places: Mapping[str, Any] | None = None,
        metrics: Sequence[str] = ("dsc",),
        processes: int = 2,
    ) -> None:
        if reference not in plan.arms:
            raise ConfigError(f"reference is {reference!r}; accepted are the arms {', '.join(plan.arms)}")
        self.bundle, self.plan, self.name, self.reference = bundle, plan, name, reference
        self.folder, self.file = Path(output_dir).absolute(), Path(output_dir).absolute() / f"{name}.csv"
        self.committed, self.processes = Path(results_dir) / f"{name}.csv", processes
        self.metrics = list(metrics)
        # A device is written down by its name.
        self.places = {key: str(value) if key == "device" else value for key, value in (places or {}).items()}

    def run(self) -> list[Row]:
        """Returns the rows of all runs of the grid.

        Raises:
            ConfigError: When a run sets an option that does not exist.
            MissingDataError: When there are no such data.
            RunsFailedError: After all others are done and written, when a run failed.
        """
        planned: dict[Key, list[Run]] = {}
        for run in self.plan.runs():
            self.bundle.require_options(run)
            # Arms that say the same are one run.
            planned.setdefault(self._key(run), []).append(run)
        kept = read_rows(self.file)
        found: dict[Key, Sequence[Mapping[str, Any]]] = {}
        for key, rows in (read_rows(self.committed) | kept).items():
            if key in planned:
                found[key] = _of_one_place(rows, planned[key][0])
        work = self._work(planned)
        # Runs that ended while nobody was left to write their rows.
        found |= {key: job.rows() for key, job in work.items() if key not in found and job.finished}
        jobs = self._jobs(work, found)
        keys = {job.name: key for key, job in jobs.items()}
        logger.info("%d run(s), %d of them with rows already", len(planned), len(found))

        def finish(job: Job) -> None:
            key = keys[job.name]
            # A run whose weights alone were gone has its rows.
            found.setdefault(key, work[key].rows())
            self._write(planned, found, kept)

        try:
            failed = run_jobs(list(jobs.values()), processes=self.processes, finished=finish)
        except Interrupted as interrupted:
            interrupted.advice = "start it again to go on"
            raise
        rows = self._write(planned, found, kept)
        if rows:
            measured = set(with_ious(load_rows(self.file))["metric"])
            metrics = [name for name in self.metrics if name in measured] or sorted(measured)
            # Without a run that ended well, the reference is no arm of the rows.
            reference = self.reference if any(row["arm"] == self.reference for row in rows) else None
            write_report(self.file, self.folder / "report", reference=reference, metrics=metrics)
        if failed:
            name, reason = next(iter(failed.items()))
            raise RunsFailedError(
                f"{len(failed)} of {len(jobs)} run(s) failed, the others are complete; the first: {name}: {reason}"
            )
        return rows

    def folder_of(self, run: Run) -> Path:
        """Returns the folder of a run's results."""
        return self.folder / self._job_name(self._key(run), run)

    def _key(self, run: Run) -> Key:
        """What a run is known by."""
        digests = self.bundle.digests(run)
        return digests["settings"], digests["data"]

    @staticmethod
    def _job_name(key: Key, run: Run) -> str:
        """The name of a run and of its folder: other settings or data never meet its files."""
        return f"{run.name}_{key[0]}_{key[1][:4]}"

    def _work(self, planned: Mapping[Key, Sequence[Run]]) -> dict[Key, BundleJob]:
        """What a process does for each run."""
        folders = {key: str(self.folder / self._job_name(key, runs[0])) for key, runs in planned.items()}
        work = {}
        for key, (run, *_) in planned.items():
            places = {**self.places, **self.bundle.shared_folders(run, self.folder / "shared")}
            if run.after is not None:
                places[STARTING] = str(weights_in(folders[self._key(run.after)]))
            work[key] = BundleJob(self.bundle, run, folders[key], places)
        return work

    def _jobs(self, work: Mapping[Key, BundleJob], found: Found) -> dict[Key, Job]:
        """Runs without rows, and those whose weights they start from where these are gone."""
        needed = [key for key in work if key not in found]
        before = {key: self._key(job.run.after) for key, job in work.items() if job.run.after is not None}
        for key in needed:
            if key in before and before[key] not in needed and not weights_in(work[before[key]].folder).is_file():
                needed.append(before[key])
        names = {key: Path(work[key].folder).name for key in needed}
        return {
            key: Job(
                names[key],
                Path(work[key].folder),
                work[key],
                frozenset(work[key].places[option] for option in self.bundle.shared),
                names.get(before[key]) if key in before else None,
            )
            for key in work
            if key in names
        }

    def _write(
        self, planned: Mapping[Key, Sequence[Run]], found: Found, kept: Mapping[Key, Sequence[Row]]
    ) -> list[Row]:
        """Writes what is found of the grid, in its order, and earlier rows of runs that are no part of it."""
        rows = [
            row
            for key, runs in planned.items()
            for run in runs
            for row in name_rows(
                found.get(key, ()), {"experiment": self.name, **run.columns, "settings": key[0], "data": key[1]}
            )
        ]
        places = {same_place(row) for row in rows}
        others = [row for key in kept if key not in planned for row in kept[key] if same_place(row) not in places]
        write_rows([rows, others], self.file)
        return rows


def _of_one_place(rows: Sequence[Row], run: Run) -> list[Row]:
    """The rows of a run as one of the arms that say the same has them."""
    unsaid = {"dataset": ""} if run.together else {}
    places = [same_place({**row, **unsaid}) for row in rows]
    return [row for row, place in zip(rows, places, strict=True) if place == places[0]]


def data_sets(
    dataset_dir: str | Sequence[str] | None = None, datasets: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the data sets of an experiment: name -> settings.

    Args:
        dataset_dir: Folder of the only data set, which gives the name; several folders make one data set. Phantoms with
            ``None``, the default.
        datasets: Settings of several data sets by their names, in place of that one. Default none.

    Raises:
        ConfigError: When both are given.
    """
    if datasets:
        if dataset_dir:
            raise ConfigError("dataset_dir and datasets are both given; give one")
        return {name: dict(settings) for name, settings in datasets.items()}
    if not dataset_dir:
        return {PHANTOMS: {}}
    folders = [dataset_dir] if isinstance(dataset_dir, str) else list(dataset_dir)
    return {"+".join(Path(folder).absolute().name for folder in folders): {"dataset_dir": dataset_dir}}
