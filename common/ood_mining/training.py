"""Runs the whole method: baseline, mining, and training on the data set together with what was mined."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from ..engine.course import Course
from ..errors import NotEnoughCasesError
from ..runtime.digests import settings_digest
from ..runtime.distributed import is_main_process
from ..runtime.files import write_atomically
from ..runtime.stages import Stages, Step, cases_digest, file_digest, run_stages
from .mine import CANDIDATES, PROPORTION, SELECTED, CandidateMiner, read_selection

logger = logging.getLogger(__name__)

Stage = Literal["baseline", "mine", "combine"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class StagedTraining:
    """Trains the baseline, mines with it, and trains again on the original and the selected patches shuffled together.

    Gao and Xu, *Out-of-distribution data supervision towards biomedical semantic segmentation*
    (https://github.com/StudioYG/Med-OoD). Both trainings start from the same weights and use the same trainer. A stage
    is skipped when its output exists for the same inputs, see :class:`~..stages.Stages`.

    | stage | writes |
    |---|---|
    | baseline | ``<baseline_dir>/baseline/model.pt``, ``metrics.json``, ``training.png``, ``checkpoint.pt`` |
    | mine | ``<candidates_dir>/ood_candidates.csv``, ``.png``; ``proportion.json``, ``ood_selected.json`` |
    | combine | the weights, ``<output_dir>/metrics.json``, ``training.png``, ``checkpoint.pt`` |

    Args:
        course: Training that is run twice; its weights are those of the last stage.
        miner: Miner that scores the candidates and selects from them.
        val_cases: Cases that the training is validated on.
        baseline_dir: Folder of the baseline, that of the course by default; trainings on other candidates may share
            one.
        candidates_dir: Folder of the scores, ``baseline_dir`` by default; trainings on different selections may share
            one.
        only_ood: Whether to train on the selected patches alone, as in the paper's Table 4. Default false.
        equal_epochs: Whether the combined training is longer than the baseline's by the factor by which its patches are
            more, as in the published runs, where epochs have a number of steps of their own. Default false: equally
            many steps.
    """

    def __init__(
        self,
        course: Course,
        miner: CandidateMiner,
        val_cases: Sequence[Mapping[str, Any]],
        *,
        baseline_dir: str | None = None,
        candidates_dir: str | None = None,
        only_ood: bool = False,
        equal_epochs: bool = False,
    ) -> None:
        self.course, self.miner, self.dataset = course, miner, miner.dataset
        self.val_cases, self.only_ood, self.equal_epochs = val_cases, only_ood, equal_epochs
        self.output_dir, self.baseline_dir = course.history.output_dir, Path(baseline_dir or course.history.output_dir)
        self.candidates_dir = Path(candidates_dir or self.baseline_dir)
        self.weights_file, self.resume = Path(course.best.path), course.checkpoint.resume
        self.baseline_file = self.baseline_dir / "baseline" / "model.pt"
        self._initial: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}

    def run(self, stage: Stage | None = None) -> None:
        """Runs all stages, or one whose predecessors are done.

        Args:
            stage: ``baseline``, ``mine`` or ``combine``; all three with ``None``, the default.

        Raises:
            ConfigError: When there is no such stage.
            MissingDataError: When a stage is run alone and one before it is not done.
            LabelError: When the data set holds no foreground or no background.
            WeightsError: When no validation gave a metric above 0.
            NotEnoughCasesError: When there is nothing to train on.
        """
        counts = self.dataset.counts
        logger.info(
            "%d original patches, %d of them with foreground (positive), %d with background (negative)",
            len(counts.foreground),
            counts.positive,
            counts.negative,
        )
        self._initial = self.course.states()
        dataset = self.dataset
        self._inputs = {
            "training data": cases_digest(dataset.trained),
            "validation data": cases_digest(self.val_cases),
            **self.course.inputs(self._initial, patches=[dataset.load, dataset.prepare, dataset.roi_size]),
        }
        run_stages(stage, STAGES, self._steps)

    def _steps(self, stage: str) -> Iterator[Step]:
        """The steps of a stage; the inputs of each are read when the one before is done."""
        folders = (self.baseline_dir, self.candidates_dir, self.output_dir)
        training, mining, own = (Stages(folder / "stages") for folder in folders)
        candidates, selected = self.candidates_dir / CANDIDATES, self.output_dir / SELECTED
        if stage == "baseline":
            check = partial(self._check_resumed, self.baseline_file.parent)
            yield Step("baseline", training, self._train_baseline, self._inputs, [self.baseline_file], check)
        if stage == "mine":
            scoring = self._scoring_inputs()
            yield Step("mine", mining, self._score, scoring, [candidates])
            drawing = scoring | {"scores": file_digest(candidates), "settings": settings_digest(self.miner.settings)}
            yield Step("select", own, self._select, drawing, [selected, self.output_dir / PROPORTION])
        if stage == "combine":
            inputs = self._inputs | self._scoring_inputs() | {"selection": file_digest(selected)}
            inputs |= {"only_ood": str(self.only_ood), "equal_epochs": str(self.equal_epochs)}
            inputs |= {"augment_ood": str(self.course.trainer.augment_ood)}
            check, work = partial(self._check_resumed, self.output_dir), partial(self._train_combined, inputs)
            yield Step("combine", own, work, inputs, [self.weights_file], check)

    def _scoring_inputs(self) -> dict[str, str]:
        """Digests of all that decides over the scores."""
        dataset = self.dataset
        cut = [dataset.load, dataset.load_candidate, dataset.prepare, dataset.roi_size, dataset.count_padding]
        return {
            "training data": self._inputs["training data"],
            "candidates": cases_digest([*dataset.data, *dataset.candidates]),
            "patches": settings_digest([*cut, dataset.removal, dataset.empty_candidates]),
            "score": str(self.miner.ignore_removed),
            "baseline": file_digest(self.baseline_file),
        }

    def _check_resumed(self, folder: Path) -> None:
        """Raises when a training shall go on in a folder that holds the checkpoint of another run."""
        self.course.checkpoint.path = str(folder / "checkpoint.pt")
        self.course.check_resumed()

    def _train_baseline(self) -> None:
        self.course.restart(self._initial, self.baseline_file.parent, self.baseline_file)
        self.course.run(self._inputs, range(self.dataset.num_original), resume=self.resume)

    def _score(self) -> None:
        self.miner.score(self.baseline_file, self.candidates_dir)

    def _select(self) -> None:
        self.miner.select(self.candidates_dir / CANDIDATES, self.output_dir)

    def _train_combined(self, inputs: Mapping[str, str]) -> None:
        selected = read_selection(self.output_dir / SELECTED)
        if self.only_ood and not selected:
            raise NotEnoughCasesError(
                "only_ood is set, but no out-of-distribution patch is selected; see proportion.json, or set "
                "ood_fraction"
            )
        if not selected:
            logger.info("no patch is selected: the baseline is the result")
            self._keep_baseline()
            return
        original = [] if self.only_ood else range(self.dataset.num_original)
        logger.info("training on %d original and %d mined patches", len(original), len(selected))
        self.course.restart(self._initial, self.output_dir, self.weights_file)
        if self.only_ood:
            # Who sees empty masks alone learns to predict nothing: a metric of 0 is what to expect, and is kept.
            self.course.best.best = -1.0
        sampler = self.course.trainer.data_loader.sampler  # type: ignore[attr-defined]
        # Without a number of samples, an epoch of the baseline passes over all original patches once.
        total, usual = sampler.total, sampler.total or self.dataset.num_original
        longer = (len(original) + len(selected)) / self.dataset.num_original if self.equal_epochs else 1
        sampler.total = round(usual * longer)
        # A run that was stopped before its last stage has no checkpoint of that.
        self.course.run(inputs, [*original, *selected], resume=self.resume and self.course.begun)
        sampler.total = total

    def _keep_baseline(self) -> None:
        """Copies the results of the baseline, which the same training on the same patches would repeat."""
        folder = self.baseline_file.parent
        names = ("metrics.json", "times.csv", "checkpoint.pt", "training.png")
        copies = {folder / name: self.output_dir / name for name in names}
        for source, target in (copies | {self.baseline_file: self.weights_file}).items():
            # A picture that could not be drawn is missing.
            if is_main_process() and source.is_file():
                with write_atomically(target) as temporary:
                    shutil.copyfile(source, temporary)
