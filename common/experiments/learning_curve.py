"""Learning curves over labeled patients: fine-tuned denoisers against the same network from scratch."""

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
from monai.bundle import ConfigParser

from ..denoising.slices import person_of
from ..denoising.training import REPORT
from ..errors import ConfigError
from ..runtime.files import write_json
from ..runtime.stages import Stages, file_digest
from .bundle_runs import bundle_config, log_to_stdout, require_options
from .learning_report import PRETRAINED, SCRATCH, Outcome, tabulate, write_report

logger = logging.getLogger(__name__)

MEASURED = "measured.json"


@dataclass(frozen=True)
class CurveRun:
    """One point of a curve: a training and its test.

    Args:
        bundle_root: folder of the bundle.
        output_dir: of the experiment.
        settings: options of ``train.json`` that all runs share.
        number: of the seed among the seeds, which is also its fold.
        seed: of everything that is drawn.
        count: labeled patients; 0 for the denoiser alone.
        pretrained: whether it starts from the denoiser.
        overlays: names of files laid over the configs.
    """

    bundle_root: str
    output_dir: str
    settings: Mapping[str, Any]
    number: int
    seed: int
    count: int
    pretrained: bool
    overlays: tuple[str, ...] = ()

    @property
    def pretrain_dir(self) -> Path:
        """Returns where the denoiser is, which all runs of a seed share."""
        return Path(self.output_dir) / f"seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """Returns where the results go."""
        return self.pretrain_dir / (f"{'pretrained' if self.pretrained else 'scratch'}_{self.count}")

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``train.json``."""
        folds = int(self.settings.get("num_folds") or 0)
        own = {"seed": self.seed, "num_labeled_patients": self.count, "pretrained": self.pretrained}
        places = {"output_dir": self.folder, "model_dir": self.folder / "models", "pretrain_dir": self.pretrain_dir}
        fold = {"fold": self.number % folds} if folds else {}
        # Runs differ in what they draw from the same slices, which are prepared once.
        places["cache_dir"] = Path(self.output_dir) / "cache"
        return {**self.settings, **own, **fold, **{name: str(path) for name, path in places.items()}}

    def patients(self) -> int:
        """Returns how many patients the run could be trained on."""
        split = self._config("train", self.options).get_parsed_content("split")
        return len({person_of(case) for case in split.part("train")})

    def run(self) -> None:
        """Trains and tests, as far as that is not done."""
        logger.info("seed %d, %d labeled patient(s): %s", self.seed, self.count, self.folder.name)
        # The bank tells scans, which is another question and takes time.
        parser = self._config("train", self.options | {"stages#bank": None})
        parser.get_parsed_content("preflight").run()
        parser.get_parsed_content("stages").run()
        self._test()

    def _test(self) -> None:
        """Writes what the test patients say beside the weights."""
        weights = self.folder / "models" / ("model.pt" if self.count else "denoiser.pt")
        split, target = self.folder / "split.json", self.folder / MEASURED

        def work() -> None:
            # Phantoms for tests are others than those that are split.
            own = {"split_file": str(split)} if self.settings.get("dataset_dir") else {}
            parser = self._config("evaluate", {**self.options, **own, "ood_dir": None})
            evaluation = parser.get_parsed_content("localization")
            report = evaluation.measure_network() if self.count else evaluation.measure_denoiser(baselines=False)
            write_json(report, target)

        inputs = {"weights": file_digest(weights), "cases": file_digest(split)}
        inputs |= {"min_component_size": str(self.settings.get("min_component_size"))}
        Stages(self.folder / "stages").run("test", work, inputs=inputs, outputs=[target])

    def _config(self, name: str, options: Mapping[str, Any]) -> ConfigParser:
        return bundle_config(self.bundle_root, name, options, self.overlays)

    def outcome(self) -> Outcome:
        """Returns what the test found out."""
        report = json.loads((self.folder / MEASURED).read_text(encoding="utf-8"))
        return Outcome(self.count, PRETRAINED if self.pretrained else SCRATCH, self.seed, report)


class LearningCurve:
    """Trains and tests with several numbers of labeled patients and seeds; writes table and figure.

    Holzschuh et al., MIDL 2023, figure 1. A denoiser is trained once for each seed; both arms take the same number of
    iterations in fine-tuning, the same patients, and the same head to begin with. At 0 patients the denoiser's anomaly
    score stands for the pre-trained arm; the other has no value there. What is done is not done again, so a curve that
    was stopped goes on where it was.

    Args:
        bundle_root: folder of the bundle.
        output_dir: folder of ``learning_curve.csv``, ``.json`` and ``.png``, and one for each seed.
        settings: options of ``train.json`` that all runs share; with ``num_folds``, the k-th seed is tested on the k-th
            fold, so that every patient may be tested once.
        counts: numbers of labeled patients; those beyond what there are are left out with a warning.
        seeds: of everything that is drawn.
        processes: runs at the same time.
        overlays: names of files laid over ``train.json`` and ``evaluate.json``.
    """

    def __init__(
        self,
        bundle_root: str,
        output_dir: str,
        settings: Mapping[str, Any],
        *,
        counts: Sequence[int] = (0, 1, 2, 5, 10, 20),
        seeds: Sequence[int] = (0,),
        processes: int = 1,
        overlays: Sequence[str] = (),
    ) -> None:
        if not counts or min(counts) < 0 or not seeds:
            raise ConfigError(f"counts is {list(counts)} and seeds {list(seeds)}; give numbers from 0, and a seed")
        # A device is written down by its name.
        named = {key: str(value) if isinstance(value, torch.device) else value for key, value in settings.items()}
        self.settings = {key: value for key, value in named.items() if value is not None}
        self.bundle_root, self.output_dir = bundle_root, Path(output_dir)
        self.counts, self.seeds, self.processes = sorted(set(counts)), list(seeds), processes
        self.overlays = tuple(overlays)

    def run(self) -> dict[str, Any]:
        """Returns the content of ``learning_curve.json``.

        Raises:
            ConfigError: when the settings name an option that does not exist.
            BundleError: what a run raises.
        """
        require_options(self.bundle_root, "train", self.settings, where="shared_settings")
        first = [self._run(number, 0, True) for number in range(len(self.seeds))]
        most = min(run.patients() for run in first)
        left_out = [count for count in self.counts if count > most]
        if left_out:
            logger.warning("counts %s are left out: %d patients are there to train on", left_out, most)
        self._work(first)
        rest = [run for run in self._runs(most) if run not in first]
        self._work(rest)
        outcomes = [run.outcome() for run in [*(first if 0 in self.counts else []), *rest]]
        denoisers = [json.loads((run.pretrain_dir / REPORT).read_text(encoding="utf-8")) for run in first]
        report = {"settings": self.settings, "seeds": self.seeds, "left_out": left_out, "rows": tabulate(outcomes)}
        report["denoisers"] = dict(zip(map(str, self.seeds), denoisers, strict=True))
        write_report(report, self.output_dir)
        return report

    def _run(self, number: int, count: int, pretrained: bool) -> CurveRun:
        place = (self.bundle_root, str(self.output_dir), self.settings)
        return CurveRun(*place, number, self.seeds[number], count, pretrained, self.overlays)

    def _runs(self, most: int) -> Iterator[CurveRun]:
        """Every run; there is none from scratch without labels."""
        for count in (count for count in self.counts if count <= most):
            for number in range(len(self.seeds)):
                for pretrained in (True, False) if count else (True,):
                    yield self._run(number, count, pretrained)

    def _work(self, runs: Sequence[CurveRun]) -> None:
        """Does runs that do not depend on one another."""
        if self.processes > 1:
            with ProcessPoolExecutor(self.processes, get_context("spawn"), log_to_stdout) as pool:
                list(pool.map(CurveRun.run, runs))
        else:
            for run in runs:
                run.run()
