"""Measures how well detectors on the networks of an experiment find other scans, data set by data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import MissingDataError, RunsFailedError
from ..metrics.detection import detection_metrics
from .bundle_runs import Bundle, weights_in
from .detection_report import TRAINING
from .grid import Grid
from .jobs import Job, run_jobs
from .plan import Run
from .report import load_rows, write_report
from .rows import COLUMNS, write_rows

logger = logging.getLogger(__name__)

COMPARED = "detectors"
"""Name of the comparison of one run, and of its folder and rows."""

SWEPT = "threshold_c"

Measured = dict[str, Any]
"""``dataset``, ``detector``, ``metric``, ``value`` and, at a threshold, ``dose``, its C."""


class JudgedRuns:
    """Compares detectors on the networks that finished runs have left, and writes rows and a report.

    Every network is judged by the test cases of its own data sets, by damages of these, and by other scans. A network
    that was trained on several data sets is measured on each of them by itself, so that it stands beside the network
    of this data set alone. Arms of the rows are ``<arm>: <detector>``; measures at a threshold have its C as dose.

    Args:
        grid: The experiment, whose ``output_dir`` holds the weights.
        judged_arms: Names of the arms whose networks are judged.
        judged_overlays: Names of files laid over ``evaluate.json``, of which one makes the comparison of detectors.
        judged_settings: Options of these files, such as ``ood_dir``, ``damages`` and ``detector_names``.
        judged_c: Numbers of standard deviations above the mean of the training scores at which thresholds lie, each the
            paper's C. Default 2.5 alone.

    Raises:
        ConfigError: When there is no such arm.
    """

    def __init__(
        self,
        grid: Grid,
        judged_arms: Sequence[str],
        judged_overlays: Sequence[str],
        *,
        judged_settings: Mapping[str, Any],
        judged_c: Sequence[float] = (2.5,),
    ) -> None:
        grid.plan.require_arms(judged_arms, setting="judged_arms")
        self.grid, self.judged_arms, self.judged_overlays = grid, list(judged_arms), list(judged_overlays)
        self.judged_settings, self.judged_c = dict(judged_settings), [float(c) for c in judged_c]
        self.file = grid.folder / f"{grid.name}_{COMPARED}.csv"

    def run(self) -> list[dict[str, Any]]:
        """Returns the rows of all networks.

        Raises:
            MissingDataError: When a run has left no weights.
            RunsFailedError: After all others are written, when a comparison failed.
        """
        runs = {self.grid.folder_of(run): run for run in self.grid.plan.runs() if run.arm in self.judged_arms}
        jobs = [Job(folder.name, folder / COMPARED, self._work(run, folder)) for folder, run in runs.items()]
        failed = run_jobs(jobs, processes=self.grid.processes, finished=lambda job: None)
        rows = [row for folder, run in runs.items() if folder.name not in failed for row in self._rows(run, folder)]
        if rows:
            write_rows([rows], self.file)
            write_report(self.file, self.grid.folder / f"report_{COMPARED}", metrics=("auc", "accuracy"))
        if failed:
            name, reason = next(iter(failed.items()))
            raise RunsFailedError(f"{len(failed)} of {len(jobs)} comparison(s) failed; the first: {name}: {reason}")
        return rows

    def _work(self, run: Run, folder: Path) -> ComparisonJob:
        """What a process does for the network of a run."""
        if not weights_in(folder).is_file():
            raise MissingDataError(f"{folder} holds no weights; run the experiment first, in the same output_dir")
        own = {"model_dir": str(weights_in(folder).parent), "split_file": f"{folder}/split.json", "name": COMPARED}
        # Seeds differ in what is trained, not in the damages that it is judged by.
        options = {key: value for key, value in run.settings.items() if key != "seed"}
        options |= {**self.grid.places, **self.judged_settings, **own}
        laid = replace(run, overlays=(*run.overlays, *self.judged_overlays))
        return ComparisonJob(self.grid.bundle, laid, {**options, "output_dir": f"{folder}/{COMPARED}"})

    def _rows(self, run: Run, folder: Path) -> Iterator[dict[str, Any]]:
        """The rows of the network of a run, in long format."""
        digests = self.grid.bundle.digests(run)
        for found in measure_detectors(load_rows(folder / COMPARED / f"{COMPARED}.csv"), self.judged_c):
            row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | run.columns | digests
            row |= {"experiment": self.file.stem, "arm": f"{run.arm}: {found['detector']}"}
            row |= {"swept": SWEPT, "dose": f"{found['dose']:g}"} if "dose" in found else {}
            yield row | {key: found[key] for key in ("dataset", "metric", "value")}


@dataclass(frozen=True)
class ComparisonJob:
    """Compares detectors on one network; made to be sent to a process of its own.

    Args:
        bundle: Bundle whose ``evaluate.json`` is run.
        run: Run that has left the network, with the overlays of the comparison.
        options: Options of the comparison.
    """

    bundle: Bundle
    run: Run
    options: Mapping[str, Any]

    def __call__(self) -> None:
        """Compares; what was measured before is not measured again.

        Raises:
            BundleError: What the comparison raises.
        """
        self.bundle.run_config("evaluate", self.bundle.evaluate_id, self.run, self.options)


def measure_detectors(rows: pd.DataFrame, judged_c: Sequence[float]) -> Iterator[Measured]:
    """Measures the detectors of one network on each of its data sets, from the scores of a comparison.

    Args:
        rows: Rows of a comparison of detectors, see ``DetectorComparison``: in-distribution cases have the name of
            their data set as ``group``, damaged ones that of the damage, at the end of their names.
        judged_c: Numbers of standard deviations at which thresholds lie.

    Yields:
        For each detector and data set ``auc_<group>`` against each group of other scans, their mean ``auc``, and, at
        each threshold, ``accuracy``, ``sensitivity`` and ``specificity`` against all of them.
    """
    scores = rows[(rows["metric"] == "score")]
    inside = scores["in_distribution"].str.lower() == "true"
    for detector, own in scores.groupby("arm", sort=False):
        training = own.loc[own["group"] == TRAINING, "value"].to_numpy()
        known, others = own[inside & (own["group"] != TRAINING)], own[~inside & (own["group"] != TRAINING)]
        for dataset, cases in known.groupby("group", sort=False):
            groups = {
                str(group): _of_same_cases(members, str(group), set(cases["case"]), set(known["case"]))
                for group, members in others.groupby("group", sort=False)
            }
            for metric, value, dose in _measure(cases["value"], groups, training, judged_c):
                yield {"dataset": dataset, "detector": detector, "metric": metric, "value": value} | dose


def _of_same_cases(members: pd.DataFrame, damage: str, cases: set[str], known: set[str]) -> pd.Series:
    """Scores of a group: of damaged cases those of one data set, of other scans all."""
    origin = members["case"].str.removesuffix(f"_{damage}")
    return members["value"][origin.isin(cases) | ~origin.isin(known)]


def _measure(
    inside: pd.Series, groups: Mapping[str, pd.Series], training: Any, judged_c: Sequence[float]
) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Metric, value and dose of one detector on one data set."""
    areas = {name: detection_metrics(inside, scores, 0.0)["auc"] for name, scores in groups.items() if len(scores)}
    if not areas:
        return
    yield from ((f"auc_{name}", area, {}) for name, area in areas.items())
    yield "auc", float(np.mean(list(areas.values()))), {}
    everything = pd.concat(list(groups.values()))
    for c in judged_c:
        found = detection_metrics(inside, everything, float(training.mean() + c * training.std()))
        yield from ((metric, found[metric], {"dose": c}) for metric in ("accuracy", "sensitivity", "specificity"))
