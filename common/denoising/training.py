"""Runs the whole method: a denoiser of healthy slices, what it localizes, and fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ignite.engine import Engine
from monai.handlers import CheckpointLoader

from ..errors import ConfigError
from ..handlers import BestWeights, MovableWriter, TrainingCheckpoint, training_settings
from ..runtime.digests import settings_digest
from ..runtime.distributed import is_main_process, unwrap, wait_for_all
from ..runtime.files import write_json
from ..runtime.options import read_flag
from ..runtime.stages import Stages, cases_digest, file_digest
from ..runtime.weights import load_weights, read_checkpoint, save_atomically
from ..sampling import PatchSampler
from ..spectral.digest import weights_digest
from .foreground import THRESHOLD
from .gallery import draw_anomaly_maps
from .head import load_body_from
from .localization import localize_anomalies
from .slice_datasets import HealthySlices, SliceDataset
from .slices import draw_patients, person_of

logger = logging.getLogger(__name__)

Stage = Literal["pretrain", "localize", "finetune"]
STAGES: tuple[Stage, ...] = get_args(Stage)
DENOISER, REPORT, MAPS = "denoiser.pt", "localization.json", "anomaly_maps.png"


@dataclass(frozen=True)
class Course:
    """One training, from its first weights to its best.

    Args:
        trainer: trains; its data loader draws by ``sampler``.
        sampler: draws.
        best: writes the best weights.
        checkpoint: what it goes on from.
        board: TensorBoard events.
        handlers: of the trainer; they decide over its start, its seeds and its validation.
    """

    trainer: Engine
    sampler: PatchSampler
    best: BestWeights
    checkpoint: TrainingCheckpoint
    board: MovableWriter
    handlers: Sequence[Any] = ()

    @property
    def given_weights(self) -> list[str]:
        """Files of weights that are loaded when it starts, over whatever the network holds by then."""
        return [str(handler.load_path) for handler in self.handlers if isinstance(handler, CheckpointLoader)]

    def inputs(self) -> dict[str, str]:
        """Digests of all that decides over it, beside the data."""
        states = self.checkpoint.states()
        network = states.pop("network")
        described = training_settings(self.trainer, self.handlers) | {"members": states}
        weights = [weights_digest(network), *map(file_digest, self.given_weights)]
        return {
            "settings": settings_digest(described),
            "initial weights": settings_digest(weights),
            "length": str(self.trainer.state.max_epochs),
        }

    def check_resumed(self) -> None:
        """Raises when it shall go on from a checkpoint of another run."""
        if self.checkpoint.resume and Path(self.checkpoint.path).is_file():
            self.checkpoint.check()

    def run(self, inputs: Mapping[str, str], indices: Sequence[int], *, resume: bool) -> None:
        """Trains on the slices of these numbers.

        Args:
            inputs: digests of all that decides over the result.
            indices: numbers of slices.
            resume: whether to go on from a checkpoint of the same inputs.

        Raises:
            WeightsError: when no validation gave a number.
            NotEnoughCasesError: when there is nothing to train on.
        """
        self.sampler.choose(indices)
        self.checkpoint.inputs = settings_digest({key: value for key, value in inputs.items() if key != "length"})
        self.checkpoint.resume = resume
        self.trainer.state.epoch_length = len(self.trainer.data_loader)  # type: ignore[attr-defined]
        self.trainer.run()
        self.board.flush()
        self.best.require()


class StagedPretraining:
    """Trains a denoiser on healthy slices, measures what it localizes, and fine-tunes it on labeled patients.

    Holzschuh et al., *Combining Anomaly Detection and Supervised Learning for Medical Image Segmentation*, MIDL 2023.
    A stage is skipped when its output exists for the same inputs, see :class:`~..stages.Stages`.

    | stage | writes |
    |---|---|
    | pretrain | ``<pretrain_dir>/pretrain/denoiser.pt``, ``metrics.json``, ``training.png``, ``checkpoint.pt`` |
    | localize | ``<pretrain_dir>/localization.json``, ``anomaly_maps.png`` |
    | finetune | the weights, ``denoiser.pt`` beside them, ``<output_dir>/metrics.json``, ``training.png``, \
``checkpoint.pt``; then the signature bank |

    Without pre-training there is the last stage alone, with the same schedule, from random weights; so, too, where
    fine-tuning loads weights (``initial_weights``, MONAI Label), which leave nothing of a denoiser. With no labeled
    patient the last stage trains nothing and leaves the denoiser beside where the weights would be.

    Args:
        pretrain: the course of pre-training.
        finetune: the course of fine-tuning.
        healthy: what is denoised.
        healthy_val: what the denoiser is validated on.
        dataset: the training slices.
        val_dataset: what fine-tuning is validated on.
        test_dataset: what the denoiser is measured on; ``val_dataset`` where it holds nothing.
        bank: fits the signature bank to the weights, with ``run``.
        output_dir: folder of results.
        pretrain_dir: folder of the first two stages, ``output_dir`` by default; runs that differ in fine-tuning alone
            may share it.
        pretrained: whether fine-tuning starts from the denoiser; see :func:`~..session.read_flag`.
        num_labeled_patients: training patients whose labels are used; ``None`` for all.
        head: name of the network's head.
        foreground_threshold: of the foreground.
        min_component_size: voxels of the smallest component of the localization report.
        seed: of the draw of patients.
    """

    def __init__(
        self,
        pretrain: Course,
        finetune: Course,
        healthy: HealthySlices,
        healthy_val: HealthySlices,
        dataset: SliceDataset,
        val_dataset: SliceDataset,
        test_dataset: SliceDataset,
        bank: Any,
        *,
        output_dir: str,
        pretrain_dir: str | None = None,
        pretrained: bool | str = True,
        num_labeled_patients: int | None = None,
        head: str = "head",
        foreground_threshold: float = THRESHOLD,
        min_component_size: int = 20,
        seed: int = 0,
    ) -> None:
        self.pretrain, self.finetune, self.bank = pretrain, finetune, bank
        self.healthy, self.healthy_val = healthy, healthy_val
        self.dataset, self.val_dataset, self.test_dataset = dataset, val_dataset, test_dataset
        self.output_dir, self.pretrain_dir = Path(output_dir), Path(pretrain_dir or output_dir)
        self.pretrained = read_flag(pretrained, "pretrained")
        self.number, self.seed = num_labeled_patients, seed
        self.head, self.foreground_threshold, self.min_size = head, foreground_threshold, min_component_size
        self.denoiser_file = Path(pretrain.best.path)
        self.weights_file = Path(finetune.best.path)
        self.resume = finetune.checkpoint.resume

    def run(self, stage: Stage | None = None) -> None:
        """Runs all stages, or one whose predecessors are done.

        Args:
            stage: ``pretrain``, ``localize`` or ``finetune``; all by default.

        Raises:
            ConfigError: when there is no such stage, or nothing to do at all.
            MissingDataError: when a stage is run alone and one before it is not done.
            NotEnoughCasesError: when there are fewer patients than asked, or no healthy slices.
            LabelError: when the labeled patients have no foreground.
            WeightsError: when no validation gave a number.
        """
        if stage is not None and stage not in STAGES:
            raise ConfigError(f"stage is {stage!r}; accepted are {', '.join(STAGES)}")
        if not self.pretrained and (stage in STAGES[:2] or self.number == 0):
            raise ConfigError(
                f"pretrained is false with stage {stage or 'all'} and num_labeled_patients {self.number}: nothing "
                "would be trained; set pretrained to true or label patients"
            )
        # Bad data shall be named now, not after the denoiser has been trained.
        labeled = draw_patients(self.dataset.slices, self.number, self.seed)
        if labeled:
            self.dataset.require_foreground(labeled)
        data = {
            "training data": cases_digest(self.dataset.data),
            "validation data": cases_digest(self.val_dataset.data),
            "preparation": settings_digest(self._preparation()),
        }
        given = self.finetune.given_weights if labeled and stage in (None, "finetune") else []
        if given:
            logger.info("fine-tuning starts from %s: no denoiser is trained, nothing of it would be left", given[0])
        elif self.pretrained:
            self._pretrain(stage, data)
            self._localize(stage)
        if stage in (None, "finetune"):
            self._finetune(labeled, data, "given" if given else "denoiser" if self.pretrained else "random")

    def _stages(self, folder: Path) -> Stages:
        return Stages(folder / "stages")

    def _step(
        self,
        stage: Stage | None,
        name: Stage,
        work: Callable[[], None],
        inputs: Mapping[str, str],
        outputs: Sequence[Path],
        before: Callable[[], None] | None = None,
    ) -> None:
        """Runs a stage of the pre-training, or makes sure that it is done."""
        stages = self._stages(self.pretrain_dir)
        if stage in (None, name):
            stages.run(name, work, inputs=inputs, outputs=outputs, before=before)
        elif stage is not None and STAGES.index(stage) > STAGES.index(name):
            stages.require(name, inputs=inputs, outputs=outputs)

    def _preparation(self) -> list[Any]:
        """What makes slices of files."""
        dataset = self.dataset
        return [dataset.load, dataset.prepare, dataset.slicing, self.foreground_threshold]

    def _pretrain(self, stage: Stage | None, data: Mapping[str, str]) -> None:
        names = None if self.healthy.names is None else sorted(self.healthy.names)
        inputs = {**data, **self.pretrain.inputs(), "healthy slices": settings_digest([names])}
        if self.healthy.folders:
            inputs["healthy_dir"] = cases_digest(self.healthy.further)

        def work() -> None:
            self.healthy.require_images()
            self.healthy_val.require_images()
            logger.info(
                "pre-training on %d healthy of %d slices, validation on %d of %d",
                len(self.healthy), len(self.dataset), len(self.healthy_val), len(self.val_dataset),
            )  # fmt: skip
            self.pretrain.run(inputs, range(len(self.healthy)), resume=self.resume)

        self._step(stage, "pretrain", work, inputs, [self.denoiser_file], self.pretrain.check_resumed)

    def _localize(self, stage: Stage | None) -> None:
        if stage == "pretrain":
            return
        dataset = self.test_dataset if len(self.test_dataset) else self.val_dataset
        part = "test" if dataset is self.test_dataset else "validation"
        inputs = {
            "denoiser": file_digest(self.denoiser_file) if self.denoiser_file.is_file() else "",
            "cases": cases_digest(dataset.data),
            "settings": settings_digest([*self._preparation(), self.min_size]),
        }
        report_file = self.pretrain_dir / REPORT

        def work() -> None:
            if not is_main_process():
                return
            network, device = unwrap(self.pretrain.best.network), _device(self.pretrain)
            load_weights(network, self.denoiser_file, device=device)
            settings: dict[str, Any] = {"foreground_threshold": self.foreground_threshold, "min_size": self.min_size}
            report = {"part": part} | localize_anomalies(dataset, network, device, **settings)
            write_json(report, report_file)
            maps = self.pretrain_dir / MAPS
            draw_anomaly_maps(dataset, network, device, maps, foreground_threshold=self.foreground_threshold)
            logger.info(
                "denoiser alone, %s part: average precision %.4f (prevalence %.4f), best Dice %.4f (oracle threshold)",
                part, report["average_precision"], report["prevalence"], report["best_dice"],
            )  # fmt: skip

        # A picture that cannot be drawn is no reason to measure again.
        self._step(stage, "localize", work, inputs, [report_file])

    def _finetune(self, labeled: Sequence[int], data: Mapping[str, str], origin: str) -> None:
        """Trains on labels, from the ``denoiser``, ``given`` weights or ``random`` ones."""
        kept, pretrained = self.weights_file.with_name(DENOISER), origin == "denoiser"
        if pretrained and is_main_process():
            save_atomically(read_checkpoint(self.denoiser_file), kept)
        wait_for_all()
        if not labeled:
            logger.info(
                "no labeled patient: the denoiser's anomaly score is the result, %s; no network and no signature bank",
                self.denoiser_file,
            )
            return
        start = file_digest(self.denoiser_file) if pretrained else origin
        inputs = {**data, **self.finetune.inputs(), "start": start, "labeled": settings_digest(list(labeled))}

        def work() -> None:
            patients = len({person_of(self.dataset.slices[index]) for index in labeled})
            logger.info("fine-tuning on %d slices of %d patient(s), start: %s", len(labeled), patients, start[:12])
            if pretrained:
                device = _device(self.finetune)
                load_body_from(self.finetune.best.network, self.denoiser_file, head=self.head, device=device)
            # A run that was stopped before its last stage has no checkpoint of that; nor has one beside which another
            # run was stopped that makes the denoiser of both.
            alone = not pretrained and self.pretrain_dir == self.output_dir
            begun = alone or Path(self.finetune.checkpoint.path).is_file()
            self.finetune.run(inputs, labeled, resume=self.resume and begun)

        self._stages(self.output_dir).run(
            "finetune", work, inputs=inputs, outputs=[self.weights_file], before=self.finetune.check_resumed
        )
        if self.bank is not None:
            self.bank.run()


def _device(course: Course) -> Any:
    """Where a course's network runs."""
    return next(unwrap(course.best.network).parameters()).device
