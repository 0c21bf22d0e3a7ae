"""Methods compared on one data set: each trained and evaluated with every share of labels and seed, then one table."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np

from ..errors import ConfigError
from ..figures import draw_bars
from ..metrics.statistics import signed_rank
from ..runtime.files import write_csv, write_json
from ..runtime.sparing import sparing
from .runs import COMPARED, MEAN, Scores, class_shares, read_scores

logger = logging.getLogger(__name__)

COLUMNS = (
    "labeled_fraction", "method", "runs", "n", "dsc", "dsc_std_of_runs", "assd", "rarest_class", "dsc_rarest",
    "p_dsc", "n_dsc", "p_dsc_rarest", "n_dsc_rarest",
)  # fmt: skip


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """Returns the scores of every case averaged over runs, so that a case counts once however many runs there were."""
    averaged: Scores = {}
    for case in runs[0]:
        for name in runs[0][case]:
            found = [run[case][name] for run in runs if name in run.get(case, {})]
            keys = [*COMPARED, *(["share"] if name != MEAN else [])]
            averaged.setdefault(case, {})[name] = {key: _mean([values[key] for values in found]) for key in keys}
    return averaged


def tabulate(results: Mapping[float, Mapping[str, Sequence[Scores]]], reference: str) -> list[dict[str, Any]]:
    """Returns the table: one row for each share of labels and method, with the Dice of every class.

    Args:
        results: share of labels -> method -> scores of each of its runs.
        reference: the method that others are tested against, by Wilcoxon's signed-rank test over cases, each averaged
            over runs. ``n`` is the number of cases of a method, ``n_dsc`` and ``n_dsc_rarest`` of the pairs tested.
    """
    rows = []
    for fraction, methods in results.items():
        averages = {method: mean_scores(runs) for method, runs in methods.items()}
        rarest = next(iter(class_shares(next(iter(averages.values())))), MEAN)
        for method, scores in averages.items():
            of_runs = [_mean(_values(run, MEAN, "dsc")) for run in methods[method]]
            row: dict[str, Any] = {"labeled_fraction": fraction, "method": method, "runs": len(of_runs)}
            row |= {"dsc": _mean(_values(scores, MEAN, "dsc")), "dsc_std_of_runs": float(np.std(of_runs))}
            row |= {"assd": _mean(_values(scores, MEAN, "assd")), "rarest_class": rarest}
            row |= {"dsc_rarest": _mean(_values(scores, rarest, "dsc")), "n": len(scores)}
            row |= {f"dsc_{name}": _mean(_values(scores, name, "dsc")) for name in sorted(class_shares(scores))}
            for name, column in ((MEAN, "dsc"), (rarest, "dsc_rarest")):
                other = averages.get(reference)
                if other is not None and method != reference:
                    pairs = [_values(side, name, "dsc", list(scores)) for side in (scores, other)]
                    test = signed_rank(*pairs)
                    row |= {f"p_{column}": test["p"], f"n_{column}": test["n"]}
            rows.append(row)
    return rows


def read_ious(folder: str | Path) -> dict[str, float]:
    """Returns the IoU of every class over the whole test set of an evaluation, where it was measured.

    Args:
        folder: ``output_dir`` of an evaluation.
    """
    report = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    measured = report.get("test_set", {}).get("per_class", {})
    return {name: math.nan if figures["iou"] is None else figures["iou"] for name, figures in measured.items()}


class MethodComparison:
    """Trains and evaluates every method with every share of labels and seed; runs that are finished are not repeated.

    Args:
        bundle_root: folder of the bundle.
        output_dir: a folder for each run, and ``methods.csv``, ``methods.json`` and a figure for each share of labels.
        dataset_dir: see :func:`labeled_cases`.
        methods: name -> what is laid over ``train.json``: names of overlay files, and settings.
        labeled_fractions: shares of labels.
        seeds: of the labeled share and of everything that training draws; test cases are the same for all.
        reference: the method that others are tested against.
        train_settings: of every training.
        evaluate_settings: of every evaluation.
        overlays: names of files laid over ``train.json`` and ``evaluate.json`` for all methods, such as ``full.json``.

    Raises:
        ConfigError: when ``reference`` is none of the methods, or ``samples_per_epoch`` is null.
    """

    def __init__(
        self,
        bundle_root: str,
        output_dir: str,
        dataset_dir: str | None,
        *,
        methods: Mapping[str, Sequence[str | Mapping[str, Any]]],
        labeled_fractions: Sequence[float],
        seeds: Sequence[int],
        reference: str,
        train_settings: Mapping[str, Any],
        evaluate_settings: Mapping[str, Any],
        overlays: Sequence[str] = (),
    ) -> None:
        if reference not in methods:
            raise ConfigError(f"reference is {reference!r}; accepted are the methods {', '.join(methods)}")
        if train_settings.get("samples_per_epoch", 1) is None:
            raise ConfigError(
                "samples_per_epoch is null: epochs would be as long as the lists of cases, which differ between "
                "methods; accepted is a number of patches, the same for all"
            )
        self.configs, self.output_dir, self.dataset_dir = Path(bundle_root) / "configs", Path(output_dir), dataset_dir
        self.methods, self.reference = dict(methods), reference
        self.labeled_fractions, self.seeds = list(labeled_fractions), list(seeds)
        self.train_settings, self.evaluate_settings = dict(train_settings), dict(evaluate_settings)
        self.overlays = list(overlays)

    def run(self) -> list[dict[str, Any]]:
        """Returns the rows of the table.

        Raises:
            ConfigError: when ``output_dir`` holds runs with other settings.
        """
        results: dict[float, dict[str, list[Scores]]] = {}
        ious: dict[tuple[float, str], list[dict[str, float]]] = {}
        for fraction in self.labeled_fractions:
            for method in self.methods:
                folders = [self._run_once(method, fraction, seed) for seed in self.seeds]
                results.setdefault(fraction, {})[method] = [read_scores(folder) for folder in folders]
                ious[fraction, method] = [read_ious(folder) for folder in folders]
            self._draw(fraction, results[fraction])
        rows = tabulate(results, self.reference)
        for row in rows:
            runs = ious[row["labeled_fraction"], row["method"]]
            row |= {f"iou_{name}": _mean([run[name] for run in runs if name in run]) for name in runs[0]}
        further = sorted({key for row in rows for key in row} - set(COLUMNS))
        write_csv(rows, [*COLUMNS, *further], self.output_dir / "methods.csv")
        write_json({"reference": self.reference, "rows": rows}, self.output_dir / "methods.json")
        for row in rows:
            logger.info(
                "%s", {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            )
        return rows

    def _run_once(self, method: str, fraction: float, seed: int) -> Path:
        """Trains and evaluates one method, unless that was done; returns the folder of the evaluation."""
        folder = self.output_dir / f"{_file_name(method)}_{fraction:g}_seed_{seed}"
        own = [item for item in self.methods[method] if isinstance(item, str)]
        overlays = [f"{self.configs}/{name}" for name in (*self.overlays, *own)]
        settings = self.train_settings | {"labeled_fraction": fraction, "seed": seed, "split_seed": 0}
        for item in self.methods[method]:
            settings |= {} if isinstance(item, str) else item
        recorded = {"overlays": [*self.overlays, *own], "train": settings, "evaluate": self.evaluate_settings}
        self._check_settings(folder / "settings.json", recorded | {"dataset_dir": self.dataset_dir})
        if (folder / "evaluation" / "metrics.json").is_file():
            return folder / "evaluation"
        logger.info("%s, %g labeled, seed %d", method, fraction, seed)
        places = {"dataset_dir": self.dataset_dir, "model_dir": str(folder / "models")}
        resume = (folder / "checkpoint.pt").is_file()
        monai.bundle.run(
            config_file=[f"{self.configs}/train.json", *overlays], logging_file=False, output_dir=str(folder),
            resume=resume, **places, **settings,
        )  # fmt: skip
        split = {"split_file": str(folder / "split.json")} if self.dataset_dir else {}
        # What an overlay says of training is not asked for here; what it says of the network is.
        monai.bundle.run(
            config_file=[f"{self.configs}/evaluate.json", *overlays], logging_file=False,
            output_dir=str(folder / "evaluation"), **places, **split, **self.evaluate_settings,
        )  # fmt: skip
        return folder / "evaluation"

    @staticmethod
    def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
        """Writes the settings of a run, or makes sure that they are those of the run that is there."""
        text = json.loads(json.dumps(settings, default=str))
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != text:
            raise ConfigError(f"{path.parent} holds a run with other settings; choose another output_dir or remove it")
        write_json(text, path)

    @sparing("the Dice of every class as a picture")
    def _draw(self, fraction: float, methods: Mapping[str, Sequence[Scores]]) -> None:
        """Dice of every class for every method, the rarest class first."""
        averages = {method: mean_scores(runs) for method, runs in methods.items()}
        shares = class_shares(next(iter(averages.values())))
        bars = {method: [_mean(_values(scores, name, "dsc")) for name in shares] for method, scores in averages.items()}
        labels = [f"class {name}\n{share:.2%}" for name, share in shares.items()]
        path = self.output_dir / f"dice_per_class_{fraction:g}.png"
        draw_bars(labels, bars, path, xlabel="class and its share of voxels", ylabel="Dice")


def _values(scores: Scores, name: str, metric: str, cases: Sequence[str] | None = None) -> list[float]:
    """A metric of a class in every case, NaN where a case has none."""
    chosen = scores if cases is None else cases
    return [scores.get(case, {}).get(name, {}).get(metric, math.nan) for case in chosen]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan


def _file_name(method: str) -> str:
    return re.sub(r"\W+", "_", method).strip("_").lower()
