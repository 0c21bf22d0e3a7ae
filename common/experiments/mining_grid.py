"""Baseline, Med-OoD and its variants over folds and seeds, with equal numbers of iterations, in one table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..metrics.confusion import all_background
from ..ood_mining.comparison import segment_cases
from ..ood_mining.mine import PROPORTION
from ..runtime.files import write_json
from ..runtime.stages import Stages, file_digest
from .bundle_runs import bundle_config, log_to_stdout, require_options
from .mining_report import BASELINE, CONSTANT, Outcome, read_matrices, tabulate, write_report

logger = logging.getLogger(__name__)

MINING = ("fill", "candidate_dir", "count_padding")
SELECTION = ("ood_fraction", "exact_fraction", "target_ratio", "fraction_step", "only_ood")
"""Options of ``train.json`` that change the candidates, and those that change what is selected of them."""

OWN = ("output_dir", "model_dir", "baseline_dir", "candidates_dir", "num_folds", "fold", "seed")
"""Options that the experiment sets itself."""


@dataclass(frozen=True)
class Run:
    """One training: the options of ``train.json`` that it sets.

    Args:
        variant: its name in the table.
        fold: tested on.
        seed: of everything else.
        options: of the variant, beside those of the whole experiment.
    """

    variant: str
    fold: int
    seed: int
    options: Mapping[str, Any]

    @property
    def group(self) -> str:
        """What its baseline differs in from others; empty where it differs in nothing."""
        return _describe({key: value for key, value in self.options.items() if key not in MINING + SELECTION})

    def folder(self, root: Path) -> Path:
        """Returns where its results go."""
        return self.baseline_dir(root) / _name(self.variant)

    def baseline_dir(self, root: Path) -> Path:
        """Returns where its baseline goes, which it shares with runs that differ in mining alone."""
        return root / f"fold_{self.fold}_seed_{self.seed}{self.group}"

    def candidates_dir(self, root: Path) -> Path:
        """Returns where its scores go, which it shares with runs that differ in their selection alone."""
        mining = {key: value for key, value in self.options.items() if key in MINING}
        return self.baseline_dir(root) / f"candidates{_describe(mining)}"


class Experiment:
    """Trains and tests every variant on every fold with every seed; writes ``experiment.json``, ``.csv`` and figures.

    Runs are stages: what is done is not done again, so an experiment that was stopped goes on where it was. Every run
    of a seed and fold starts from the same weights; with ``samples_per_epoch`` among the settings, all take the same
    number of iterations.

    Args:
        bundle_root: folder of the bundle.
        output_dir: folder of the results.
        settings: options of ``train.json`` that all runs share: ``dataset_dir``, ``max_epochs`` and so on.
        variants: name in the table -> options of ``train.json`` that make the variant; ``seeds`` among them are the
            seeds of this variant alone. The baseline comes without being named.
        num_folds: of the cross-validation, by patient or region.
        seeds: every variant is trained with each.
        processes: runs of different folds and seeds at the same time.
        overlays: names of files laid over ``train.json`` and ``evaluate.json``, such as ``encoders.json``; variants may
            set their keys as well.
    """

    def __init__(
        self,
        bundle_root: str,
        output_dir: str,
        settings: Mapping[str, Any],
        variants: Mapping[str, Mapping[str, Any]],
        *,
        num_folds: int = 3,
        seeds: Sequence[int] = (0,),
        processes: int = 1,
        overlays: Sequence[str] = (),
    ) -> None:
        if {BASELINE, CONSTANT} & variants.keys() or not variants:
            raise ConfigError(
                f"variants is {list(variants)}; at least one is needed, and {BASELINE!r} and {CONSTANT!r} come by "
                "themselves: choose other names"
            )
        self.bundle_root, self.output_dir = bundle_root, Path(output_dir)
        # A device is written down by its name.
        named = {key: str(value) if isinstance(value, torch.device) else value for key, value in settings.items()}
        self.settings = {key: value for key, value in named.items() if value is not None}
        self.variants, self.num_folds = {name: dict(options) for name, options in variants.items()}, num_folds
        self.seeds, self.processes, self.overlays = list(seeds), processes, tuple(overlays)
        self.swept = False

    def run(self) -> dict[str, Any]:
        """Returns the content of ``experiment.json``.

        Raises:
            ConfigError: when a variant or the settings name an option that does not exist, or a variant one that the
                experiment sets itself.
            BundleError: what a run raises.
        """
        self._check_options()
        runs, settings = list(self._runs()), self.settings | {"num_folds": self.num_folds}
        jobs = [
            Job(self.bundle_root, str(self.output_dir), settings, tuple(group), self.overlays)
            for group in _groups(runs)
        ]
        if self.processes > 1:
            with ProcessPoolExecutor(self.processes, get_context("spawn"), log_to_stdout) as pool:
                list(pool.map(Job.run, jobs))
        else:
            for job in jobs:
                job.run()
        outcomes = [outcome for run in runs for outcome in self._outcomes(run)]
        report = {"settings": self.settings, "variants": self.variants, "num_folds": self.num_folds}
        report |= {"overlays": list(self.overlays), "swept": self.swept, "table": tabulate(outcomes)}
        write_report(report, self.output_dir)
        return report

    def sweep(self, percentages: Sequence[float]) -> dict[str, Any]:
        """Returns the content of ``experiment.json`` for these fractions of the OoD patches in place of the variants.

        Args:
            percentages: fractions in [0, 1]; 0 is the baseline.

        Raises:
            ConfigError: when none is given or one is not accepted.
        """
        if not percentages or not all(0 <= value <= 1 for value in percentages):
            raise ConfigError(f"percentages is {list(percentages)}; give fractions of the OoD patches, from 0 to 1")
        self.variants = {f"{100 * value:g} %": {"ood_fraction": float(value)} for value in percentages}
        self.swept = True
        return self.run()

    def _check_options(self) -> None:
        """An option that no config has would be left out without a word, and the variant be something else."""
        require_options(self.bundle_root, "train", self.settings, where="shared_settings")
        for name, options in self.variants.items():
            chosen = {key: value for key, value in options.items() if key != "seeds"}
            taken = sorted(chosen.keys() & set(OWN))
            if taken:
                raise ConfigError(f"variant {name!r} sets {taken[0]!r}, which the experiment sets itself; leave it out")
            require_options(self.bundle_root, "train", chosen, self.overlays, where=f"variant {name!r}")

    def _outcomes(self, run: Run) -> list[Outcome]:
        """What the tests of a run, of its baseline and of the constant prediction found out."""
        folder, baseline = run.folder(self.output_dir), f"{BASELINE}{run.group}"
        proportion = json.loads((folder / PROPORTION).read_text(encoding="utf-8"))
        matrices = read_matrices(run.baseline_dir(self.output_dir) / "baseline" / "test.json")
        counts = {"pnr": proportion["pnr_selected"], "selected": proportion["num_selected"]}
        counts |= {"candidates": proportion["num_ood"]}
        place = (run.fold, run.seed)
        return [
            Outcome(CONSTANT, place, [all_background(matrix) for matrix in matrices]),
            Outcome(baseline, place, matrices, {"pnr": proportion["pnr"], "selected": 0}),
            Outcome(run.variant, place, read_matrices(folder / "test.json"), counts, baseline),
        ]

    def _runs(self) -> Iterator[Run]:
        """Every run, those of one baseline one after the other."""
        for fold in range(self.num_folds):
            for seed in self.seeds:
                for name, options in self.variants.items():
                    chosen = dict(options)
                    if seed in chosen.pop("seeds", self.seeds):
                        yield Run(name, fold, seed, chosen)


@dataclass(frozen=True)
class Job:
    """The runs of one fold and seed, one after the other, since they share a baseline.

    Args:
        bundle_root: folder of the bundle.
        output_dir: of the experiment.
        settings: options that all runs share.
        runs: of this fold and seed.
        overlays: names of files laid over the configs.
    """

    bundle_root: str
    output_dir: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    overlays: tuple[str, ...] = ()

    def run(self) -> None:
        """Trains and tests every run that is not done."""
        for run in self.runs:
            root = Path(self.output_dir)
            folder, baseline_dir = run.folder(root), run.baseline_dir(root)
            logger.info("fold %d, seed %d: %s", run.fold, run.seed, run.variant)
            places = {"output_dir": folder, "model_dir": folder / "models", "baseline_dir": baseline_dir}
            places["candidates_dir"] = run.candidates_dir(root)
            options = {**self.settings, **run.options, "fold": run.fold, "seed": run.seed}
            self._train(options | {name: str(path) for name, path in places.items()})
            options["output_dir"] = str(folder)
            self._test(options, folder / "split.json", baseline_dir / "baseline" / "model.pt")
            self._test(options, folder / "split.json", folder / "models" / "model.pt", folder)

    def _train(self, options: Mapping[str, Any]) -> None:
        parser = bundle_config(self.bundle_root, "train", options, self.overlays)
        parser.get_parsed_content("preflight").run()
        parser.get_parsed_content("stages").run()

    def _test(
        self, options: Mapping[str, Any], split_file: Path, weights_file: Path, folder: Path | None = None
    ) -> None:
        """Writes the confusion matrix of every test case beside the weights, unless it is there already."""
        target = (folder or weights_file.parent) / "test.json"

        def work() -> None:
            # Phantoms for tests are others than those that are split.
            split = {"split_file": str(split_file)} if options.get("dataset_dir") else {}
            settings = {**options, **split, "inferer#with_signature": False}
            parser = bundle_config(self.bundle_root, "evaluate", settings, self.overlays)
            names = ("network", "evaluation_cases", "validate#preprocessing", "inferer", "device")
            network, data, transform, inferer, device = (parser.get_parsed_content(name) for name in names)
            known = [case for case in data if case["in_distribution"]]
            found = segment_cases(network, weights_file, known, transform, inferer, device)
            write_json({case.name: case.matrix.tolist() for case in found}, target)

        inputs = {"weights": file_digest(weights_file), "cases": file_digest(split_file)}
        inputs |= {"overlap": str(options.get("overlap"))}
        Stages(target.parent / "stages").run("test", work, inputs=inputs, outputs=[target])


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of the same fold and seed together: they share baselines, so no two processes may do them."""
    groups: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.fold, run.seed), []).append(run)
    return list(groups.values())


def _describe(options: Mapping[str, Any]) -> str:
    """Options as part of the name of a folder, empty without any."""
    return "".join(f"_{_name(f'{key}_{value}')}" for key, value in sorted(options.items()))


def _name(text: str) -> str:
    """A text as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)
