"""Runs the whole method: baseline, mining, and training on the data set together with what was mined."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from ignite.engine import Engine
from monai.handlers import CheckpointLoader

from ..errors import ConfigError, NotEnoughCasesError
from ..handlers import BestWeights, MovableWriter, TrainingCheckpoint, TrainingHistory, training_settings
from ..runtime.digests import settings_digest
from ..runtime.stages import Stages, cases_digest, file_digest
from ..sampling import PatchSampler
from ..spectral.digest import weights_digest
from .mine import CANDIDATES, PROPORTION, SELECTED, CandidateMiner, read_selection

logger = logging.getLogger(__name__)

Stage = Literal["baseline", "mine", "combine"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class _Step:
    """Work that is skipped or done as a whole; see :meth:`Stages.run`."""

    name: str
    stages: Stages
    work: Callable[[], None]
    inputs: Mapping[str, str]
    outputs: Sequence[Path]
    before: Callable[[], None] | None = None


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
        trainer: trains; its data loader draws by ``sampler``.
        sampler: draws the patches that a stage trains on.
        best: writes the best weights, those of the last stage where it was told.
        history: writes the course of a training.
        checkpoint: whose members start anew with every training.
        board: TensorBoard events.
        miner: scores and selects.
        val_cases: what the trainer is validated on.
        output_dir: folder of results.
        baseline_dir: folder of the baseline, ``output_dir`` by default; trainings on other candidates may share one.
        candidates_dir: folder of the scores, ``baseline_dir`` by default; trainings on different selections may share
            one.
        only_ood: train on the selected patches alone, the paper's Table 4.
        handlers: of the trainer; they decide over its start, its seeds and its validation.
    """

    def __init__(
        self,
        trainer: Engine,
        sampler: PatchSampler,
        best: BestWeights,
        history: TrainingHistory,
        checkpoint: TrainingCheckpoint,
        board: MovableWriter,
        miner: CandidateMiner,
        val_cases: Sequence[Mapping[str, Any]],
        *,
        output_dir: str,
        baseline_dir: str | None = None,
        candidates_dir: str | None = None,
        only_ood: bool = False,
        handlers: Sequence[Any] = (),
    ) -> None:
        self.trainer, self.sampler, self.miner, self.dataset = trainer, sampler, miner, miner.dataset
        self.best, self.history, self.checkpoint, self.board = best, history, checkpoint, board
        self.val_cases, self.only_ood = val_cases, only_ood
        self.handlers = handlers
        self.output_dir, self.baseline_dir = Path(output_dir), Path(baseline_dir or output_dir)
        self.candidates_dir = Path(candidates_dir or self.baseline_dir)
        self.weights_file, self.resume = Path(best.path), checkpoint.resume
        self.baseline_file = self.baseline_dir / "baseline" / "model.pt"
        self._initial: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}

    def run(self, stage: Stage | None = None) -> None:
        """Runs all stages, or one whose predecessors are done.

        Args:
            stage: ``baseline``, ``mine`` or ``combine``; all by default.

        Raises:
            ConfigError: when there is no such stage.
            MissingDataError: when a stage is run alone and one before it is not done.
            LabelError: when the data set holds no foreground or no background.
            WeightsError: when no validation gave a metric above 0.
            NotEnoughCasesError: when there is nothing to train on.
        """
        if stage is not None and stage not in STAGES:
            raise ConfigError(f"stage is {stage!r}; accepted are {', '.join(STAGES)}")
        counts = self.dataset.counts
        logger.info(
            "%d original patches: %d positive, %d negative", len(counts.foreground), counts.positive, counts.negative
        )
        self._initial = copy.deepcopy(self.checkpoint.states())
        self._inputs = self._training_inputs()
        for name in STAGES[: len(STAGES) if stage is None else STAGES.index(stage) + 1]:
            for step in self._steps(name):
                if stage in (None, name):
                    step.stages.run(step.name, step.work, inputs=step.inputs, outputs=step.outputs, before=step.before)
                else:
                    step.stages.require(step.name, inputs=step.inputs, outputs=step.outputs)

    def _steps(self, stage: Stage) -> Iterator[_Step]:
        """The steps of a stage; the inputs of each are read when the one before is done."""
        folders = (self.baseline_dir, self.candidates_dir, self.output_dir)
        training, mining, own = (Stages(folder / "stages") for folder in folders)
        candidates, selected = self.candidates_dir / CANDIDATES, self.output_dir / SELECTED
        if stage == "baseline":
            check = partial(self._check_resumed, self.baseline_file.parent)
            yield _Step("baseline", training, self._train_baseline, self._inputs, [self.baseline_file], check)
        if stage == "mine":
            scoring = self._scoring_inputs()
            yield _Step("mine", mining, self._score, scoring, [candidates])
            drawing = scoring | {"scores": file_digest(candidates), "settings": settings_digest(self.miner.settings)}
            yield _Step("select", own, self._select, drawing, [selected, self.output_dir / PROPORTION])
        if stage == "combine":
            inputs = self._inputs | self._scoring_inputs() | {"selection": file_digest(selected)}
            inputs |= {"only_ood": str(self.only_ood)}
            check, work = partial(self._check_resumed, self.output_dir), partial(self._train_combined, inputs)
            yield _Step("combine", own, work, inputs, [self.weights_file], check)

    def _training_inputs(self) -> dict[str, str]:
        """Digests of all that decides over the baseline."""
        dataset = self.dataset
        described = training_settings(self.trainer, self.handlers) | {
            "members": {name: state for name, state in self._initial.items() if name != "network"},
            "patches": [dataset.load, dataset.prepare, dataset.roi_size],
        }
        loaders = [handler for handler in self.handlers if isinstance(handler, CheckpointLoader)]
        weights = [weights_digest(self._initial["network"]), *(file_digest(item.load_path) for item in loaders)]
        return {
            "training data": cases_digest(dataset.data),
            "validation data": cases_digest(self.val_cases),
            "settings": settings_digest(described),
            "initial weights": settings_digest(weights),
            "length": str(self.trainer.state.max_epochs),
        }

    def _scoring_inputs(self) -> dict[str, str]:
        """Digests of all that decides over the scores."""
        dataset = self.dataset
        cut = [dataset.load, dataset.load_candidate, dataset.prepare, dataset.roi_size, dataset.count_padding]
        return {
            "training data": self._inputs["training data"],
            "candidates": cases_digest(dataset.candidates),
            "patches": settings_digest([*cut, dataset.fill, dataset.seed]),
            "baseline": file_digest(self.baseline_file),
        }

    def _check_resumed(self, folder: Path) -> None:
        """Raises when a training shall go on in a folder that holds the checkpoint of another run."""
        self.checkpoint.path = str(folder / "checkpoint.pt")
        if self.resume and Path(self.checkpoint.path).is_file():
            self.checkpoint.check()

    def _train_baseline(self) -> None:
        self._train(range(self.dataset.num_original), self.baseline_file.parent, self.baseline_file, self._inputs)

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
        original = [] if self.only_ood else range(self.dataset.num_original)
        logger.info("training on %d original and %d mined patches", len(original), len(selected))
        self._train([*original, *selected], self.output_dir, self.weights_file, inputs)

    def _train(self, indices: Sequence[int], folder: Path, weights_file: Path, inputs: Mapping[str, str]) -> None:
        """One training, from the initial state, on the patches of these numbers."""
        self.checkpoint.restore(copy.deepcopy(self._initial))
        self.sampler.choose(indices)
        self.best.path, self.history.output_dir = str(weights_file), folder
        if self.only_ood and folder == self.output_dir:
            # Who sees empty masks alone learns to predict nothing: a metric of 0 is what to expect, and is kept.
            self.best.best = -1.0
        self.board.move(folder)
        self.checkpoint.path = str(folder / "checkpoint.pt")
        self.checkpoint.inputs = settings_digest({key: value for key, value in inputs.items() if key != "length"})
        # A run that was stopped before its last stage has no checkpoint of that.
        begun = folder == self.baseline_file.parent or Path(self.checkpoint.path).is_file()
        self.checkpoint.resume = self.resume and begun
        state: Any = self.trainer.state
        state.epoch = state.iteration = 0
        state.epoch_length = len(self.trainer.data_loader)  # type: ignore[attr-defined]
        validation: Any = self.history.evaluator.state
        validation.best_metric = validation.best_metric_epoch = -1
        self.trainer.run()
        self.board.flush()
        self.best.require()
