"""Trains plain networks with all labels, the gate before methods are compared: ``python -m common gate``."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import ConfigError, MissingDataError, RunsFailedError
from ..handlers.times import TIMES, read_times
from ..metrics.confusion import mean_of_present
from ..runtime.digests import settings_digest
from ..runtime.files import write_csv
from ..runtime.interrupts import Interrupted
from ..runtime.knobs import WORDS
from .bundle_runs import Bundle, BundleJob
from .gates_page import CURVE_COLUMNS, CURVES, GATE_COLUMNS, GATES, describe_gate, read_table, write_gates_page
from .jobs import Job, run_jobs
from .plan import Run

logger = logging.getLogger(__name__)

LIST = "gates.json"
"""File beside the bundles: name of a gate -> what :class:`Gate` says of it."""

DATA_DIR = "MEDICAL_DATA_DIR"
"""Environment variable that names the folder of the data sets."""

POOLED = "_pooled"
"""End of the name of a metric that is taken over the whole test set; others are means over patients."""

CURVE_METRICS = ("val_soft_dice", "val_mean_dice")
"""Metrics of validation in the order of preference: the one that selects the weights first."""

SEED = 0


@dataclass(frozen=True)
class Gate:
    """A plain training with all labels, and the figure that it must reach on patients that it never saw.

    Args:
        name: Name of the gate.
        dataset: Names of folders below the folder of the data sets; several make one data set.
        bundle: Name of the bundle whose ``train.json`` and ``evaluate.json`` are run.
        network: Word for the network in the table.
        resolution: Words for the size of the images in the table.
        metric: Metric of ``evaluate.json``; with ``_pooled`` at its end it is taken over the whole test set, else it is
            the mean over patients.
        floor: Value that must be reached; ``None``, the default, where nothing is published to go by.
        overlays: Names of files laid over the configs, in this order. Default none.
        settings: Options of ``train.json``; nested ones are joined by ``.``. Default none.
        note: What the page says of the figure. Default nothing.
    """

    name: str
    dataset: Sequence[str]
    bundle: str
    network: str
    resolution: str
    metric: str
    floor: float | None = None
    overlays: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def run(self, data_dir: Path) -> Run:
        """Returns the run of an experiment that this gate is.

        Args:
            data_dir: Folder of the data sets.

        Raises:
            MissingDataError: When a data set is not there.
        """
        folders = [data_dir / name for name in self.dataset]
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        if missing:
            raise MissingDataError(f"gate {self.name!r} needs {missing[0]}, which does not exist; give its data_dir")
        given = str(folders[0]) if len(folders) == 1 else [str(folder) for folder in folders]
        settings = {key.replace(".", "#"): value for key, value in self.settings.items()}
        settings |= {"dataset_dir": given, "seed": SEED}
        return Run("+".join(self.dataset), self.name, SEED, overlays=tuple(self.overlays), settings=settings)

    def digest(self, bundle: Bundle) -> str:
        """Returns what tells whether a row was made by this gate: its settings and the content of its overlays.

        Defaults of the bundle do not count: a new option must not undo what was trained for hours.
        """
        files = bundle.files("train", self.overlays)[1:]
        laid = [{k: v for k, v in ConfigParser.load_config_file(file).items() if k != WORDS} for file in files]
        return settings_digest([self.bundle, self.metric, dict(self.settings), laid])[:12]


def read_gates(path: str | Path) -> dict[str, Gate]:
    """Returns name -> gate, in the order of the file.

    Raises:
        ConfigError: When the file cannot be read, or a gate lacks a field or has one that does not exist.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give the folder of the bundles, which holds it") from error
    names = [item.name for item in fields(Gate)][1:]
    gates = {}
    for name, said in content.items():
        unknown = sorted(said.keys() - set(names))
        if unknown:
            raise ConfigError(f"{path}: gate {name!r} has {unknown[0]!r}; accepted are {', '.join(names)}")
        try:
            gates[name] = Gate(name, **said)
        except TypeError as error:
            raise ConfigError(f"{path}: gate {name!r} lacks a field ({error}); give {', '.join(names)}") from error
    return gates


def run_gates(
    *names: str,
    data_dir: str | None = None,
    output_dir: str = "output/gates",
    processes: int = 2,
    bundles: str = "bundles",
    docs: str = "docs",
    page_only: bool = False,
) -> None:
    """Trains and tests gates that have no row yet; writes row, page and figure as soon as one is done.

    A row stands for the settings of its gate and the content of its data; a gate that has changed is run again. A run
    that was killed goes on from its checkpoint when the command is started again.

    Args:
        *names: Names of gates; all by default.
        data_dir: Folder of the data sets. Default what the environment variable ``MEDICAL_DATA_DIR`` says.
        output_dir: Folder of a folder for each run. Default ``output/gates``.
        processes: Number of gates at a time, at least 1, each in a process of one thread. Default 2.
        bundles: Folder of the bundles and of ``gates.json``. Default ``bundles``.
        docs: Folder of ``gates.csv``, ``gates_curves.csv``, the page and the figure. Default ``docs``.
        page_only: Whether nothing is run, and page and figure are written from the rows that are there. Default false.

    Raises:
        ConfigError: When there is no such gate, or a gate sets an option that does not exist.
        MissingDataError: When there are no data.
        RunsFailedError: After all others are done and written, when a run failed.
    """
    gates = read_gates(Path(bundles, LIST))
    unknown = [name for name in names if name not in gates]
    if unknown:
        raise ConfigError(f"there is no gate {unknown[0]!r}; accepted are {', '.join(gates)}")
    chosen = [gates[name] for name in names or gates]
    failed: dict[str, str] = {}
    if not page_only:
        root = _data_root(data_dir)
        waiting = [work for gate in chosen if not (work := GateWork(gate, root, output_dir, bundles)).has_row(docs)]
        logger.info("%d gate(s), %d of them with a row already", len(chosen), len(chosen) - len(waiting))
        failed = _run(waiting, gates, docs, processes)
    write_gates_page(docs, _notes(gates))
    if failed:
        name, reason = next(iter(failed.items()))
        raise RunsFailedError(f"{len(failed)} gate(s) failed, the others are complete; the first: {name}: {reason}")


def _data_root(data_dir: str | None) -> Path:
    """The folder of the data sets."""
    folder = data_dir or os.environ.get(DATA_DIR)
    if not folder or not Path(folder).is_dir():
        raise MissingDataError(
            f"data_dir is {folder or 'not given'}; give the folder that holds the data sets, by --data_dir or in the "
            f"environment variable {DATA_DIR}"
        )
    return Path(folder).absolute()


def _notes(gates: Mapping[str, Gate]) -> dict[str, str]:
    """Name of a gate -> what the page says of it."""
    return {name: gate.note for name, gate in gates.items()}


def _run(waiting: Sequence[GateWork], gates: Mapping[str, Gate], docs: str, processes: int) -> dict[str, str]:
    """Runs gates; returns why those that failed did."""
    works, order = {work.gate.name: work for work in waiting}, list(gates)

    def finish(job: Job) -> None:
        work = works[job.name]
        row, curve = work.row(), work.curve()
        _replace(Path(docs, CURVES), CURVE_COLUMNS, work.gate.name, curve, order)
        _replace(Path(docs, GATES), GATE_COLUMNS, work.gate.name, [row], order)
        write_gates_page(docs, _notes(gates))
        logger.info("%s", describe_gate(row, curve))

    ended = [Job(name, Path(work.job.folder), work.job) for name, work in works.items() if work.job.finished]
    for job in ended:
        # It ended while nobody was left to write its row.
        finish(job)
    names = {job.name for job in ended}
    jobs = [Job(name, Path(work.job.folder), work.job) for name, work in works.items() if name not in names]
    try:
        return run_jobs(jobs, processes=processes, finished=finish)
    except Interrupted as interrupted:
        interrupted.advice = "start it again to go on"
        raise


def _replace(
    path: Path, columns: Sequence[str], name: str, rows: Sequence[Mapping[str, Any]], order: Sequence[str]
) -> None:
    """Puts the rows of a gate in place of its earlier ones, gate by gate in the order of their list."""
    kept = [row for row in read_table(path, columns) if row["gate"] != name]
    places = {gate: number for number, gate in enumerate(order)}
    everything = sorted([*kept, *rows], key=lambda row: places.get(row["gate"], len(places)))
    write_csv(everything, columns, path)


class GateWork:
    """What is run for a gate, and what is read of it when it is done.

    Args:
        gate: Gate that is run.
        data_dir: Folder of the data sets.
        output_dir: Folder of a folder for each run.
        bundles: Folder of the bundles.

    Raises:
        ConfigError: When the gate sets an option that does not exist.
        MissingDataError: When its data are not there.
    """

    def __init__(self, gate: Gate, data_dir: Path, output_dir: str, bundles: str) -> None:
        self.gate = gate
        bundle, run = Bundle(str(Path(bundles, gate.bundle).absolute())), gate.run(data_dir)
        bundle.require_options(run)
        digests = bundle.digests(run)
        self.known_by = {"settings": gate.digest(bundle), "data": digests["data"]}
        # A run is gone on with, or taken as it is, only where all settings are the same, defaults included.
        folder = Path(output_dir).absolute() / f"{gate.name}_{digests['settings']}_{digests['data'][:4]}"
        self.job = BundleJob(bundle, run, str(folder), {})

    def has_row(self, docs: str) -> bool:
        """Returns whether the table has the row of this very gate."""
        rows = read_table(Path(docs, GATES), GATE_COLUMNS)
        own = {"gate": self.gate.name, **self.known_by}
        return any(own.items() <= row.items() for row in rows)

    def row(self) -> dict[str, Any]:
        """Returns the row of the finished gate.

        Raises:
            MissingDataError: When the evaluation has no such metric.
        """
        rows = self.job.rows()
        metric, pooled = self.gate.metric.removesuffix(POOLED), self.gate.metric.endswith(POOLED)
        values = [float(row["value"]) for row in rows if row["metric"] == metric and bool(row["case"]) != pooled]
        value = mean_of_present(values)
        if math.isnan(value):
            raise MissingDataError(f"{self.job.folder} has no {self.gate.metric}; correct the metric of the gate")
        patients = {row["case"] for row in rows if row["case"]}
        times = read_times(Path(self.job.folder, TIMES))
        described = {"iterations": int(times[-1]["iteration"]), "seconds": times[-1]["seconds"]} if times else {}
        return (
            {"dataset": self.job.run.dataset, "network": self.gate.network, "resolution": self.gate.resolution}
            | {"iterations": rows[0]["iterations"], "seconds": rows[0]["seconds"]}
            | described
            | {"metric": self.gate.metric, "value": round(value, 4), "floor": self.gate.floor}
            | {"gate": self.gate.name, "patients": len(patients), **self.known_by}
        )

    def curve(self) -> list[dict[str, Any]]:
        """Returns a row for each validation of the training.

        Raises:
            MissingDataError: When the files of the training are missing.
        """
        folder = Path(self.job.folder)
        try:
            epochs = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["epochs"]
        except (OSError, ValueError, KeyError) as error:
            raise MissingDataError(f"{folder}/metrics.json cannot be read ({error}); remove its folder") from error
        seconds = {int(row["epoch"]): row["seconds"] for row in read_times(folder / TIMES)}
        metric = next((name for name in CURVE_METRICS if any(name in epoch for epoch in epochs)), "")
        common = {"dataset": self.job.run.dataset, "network": self.gate.network, "metric": metric}
        return [
            common
            | {"iterations": epoch["iteration"], "seconds": seconds.get(epoch["epoch"])}
            | {"value": round(epoch[metric], 4), "gate": self.gate.name}
            for epoch in epochs
            if metric in epoch
        ]
