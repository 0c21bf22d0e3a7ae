"""Runs the whole method: a denoiser of healthy slices, what it localizes, and fine-tuning."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from ..engine.course import Course
from ..errors import ConfigError
from ..runtime.digests import settings_digest
from ..runtime.distributed import is_main_process, unwrap, wait_for_all
from ..runtime.files import write_json
from ..runtime.options import read_flag
from ..runtime.stages import Stages, Step, cases_digest, file_digest, run_stages
from ..runtime.weights import load_weights, read_checkpoint, save_atomically
from .curve import figures_text
from .finetuning import denoiser_name
from .foreground import THRESHOLD
from .gallery import draw_anomaly_maps
from .head import load_body_from
from .localization import localize_anomalies
from .slice_datasets import HealthySlices, SliceDataset
from .slices import draw_patients, person_of

logger = logging.getLogger(__name__)

Stage = Literal["pretrain", "localize", "finetune"]
STAGES: tuple[Stage, ...] = get_args(Stage)
DENOISER, REPORT, MAPS = denoiser_name(None), "localization.json", "anomaly_maps.png"
ANOMALIES = "anomalies.json"
"""File of what the denoiser alone localizes, as measures that experiments compare; empty without a denoiser."""


class StagedPretraining:
    """Trains a denoiser on healthy slices, measures what it localizes, and fine-tunes it on labeled patients.

    Holzschuh et al., *Combining Anomaly Detection and Supervised Learning for Medical Image Segmentation*, MIDL 2023.
    A stage is skipped when its output exists for the same inputs, see :class:`~..runtime.stages.Stages`.

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
        pretrain: Course of pre-training.
        finetune: Course of fine-tuning.
        healthy: Slices that the denoiser learns from.
        healthy_val: Slices that the denoiser is validated on.
        dataset: Training slices.
        val_dataset: Slices that fine-tuning is validated on.
        test_dataset: Slices that the denoiser is measured on; ``val_dataset`` where it holds nothing.
        bank: Object whose ``run`` fits the signature bank to the weights; ``None`` or false for no bank.
        output_dir: Folder of the results.
        pretrain_dir: Folder of the first two stages; runs that differ in fine-tuning alone may share it. With ``None``,
            the default, ``output_dir``.
        pretrained: Whether fine-tuning starts from the denoiser, see :func:`~..runtime.options.read_flag`. True by
            default.
        num_labeled_patients: Number of training patients whose labels are used, at least 0. With ``None``, the default,
            all.
        pretrain_checkpoints: Iterations of pre-training whose weights are kept, see :class:`KeepDenoisers`. None by
            default.
        denoiser_iteration: Iteration whose weights fine-tuning starts from, one of ``pretrain_checkpoints``. With
            ``None``, the default, those that validate best.
        head: Name of the network's head; ``head`` by default.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        bright_channel: Channel in which what is abnormal is brighter, see :func:`anomaly_score`. None by default.
        min_component_size: Size of the smallest component that stays in the localization report, in voxels. 20 by
            default.
        seed: Seed of the draw of patients. 0 by default.
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
        pretrain_checkpoints: Sequence[int] | None = None,
        denoiser_iteration: int | None = None,
        head: str = "head",
        foreground_threshold: float = THRESHOLD,
        bright_channel: int | None = None,
        min_component_size: int = 20,
        seed: int = 0,
    ) -> None:
        self.pretrain, self.finetune, self.bank = pretrain, finetune, bank
        self.healthy, self.healthy_val = healthy, healthy_val
        self.dataset, self.val_dataset, self.test_dataset = dataset, val_dataset, test_dataset
        self.output_dir, self.pretrain_dir = Path(output_dir), Path(pretrain_dir or output_dir)
        self.pretrained = read_flag(pretrained, "pretrained")
        self.number, self.seed = num_labeled_patients, seed
        self.scoring: dict[str, Any] = {"foreground_threshold": foreground_threshold, "bright_channel": bright_channel}
        self.head, self.min_size = head, min_component_size
        self.kept, self.iteration = list(pretrain_checkpoints or []), denoiser_iteration
        if self.pretrained and denoiser_iteration is not None and denoiser_iteration not in self.kept:
            raise ConfigError(
                f"denoiser_iteration is {denoiser_iteration}; accepted are those of pretrain_checkpoints, {self.kept}"
            )
        self.best_file = Path(pretrain.best.path)
        self.denoiser_file = self.best_file.with_name(denoiser_name(denoiser_iteration))
        self.weights_file = Path(finetune.best.path)
        self.resume = finetune.checkpoint.resume

    def run(self, stage: Stage | None = None) -> None:
        """Runs all stages, or one whose predecessors are done.

        Args:
            stage: Name of the stage to run: ``pretrain``, ``localize`` or ``finetune``. With ``None``, the default,
                all.

        Raises:
            ConfigError: When there is no such stage, or nothing to do at all.
            MissingDataError: When a stage is run alone and one before it is not done.
            NotEnoughCasesError: When there are fewer patients than asked, or no healthy slices.
            LabelError: When the labeled patients have no foreground.
            WeightsError: When no validation gave a number.
        """
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
        given = self.finetune.trainer.given_weights if labeled and stage in (None, "finetune") else []
        if given:
            logger.info("fine-tuning starts from %s: no denoiser is trained, nothing of it would be left", given[0])
        alone = bool(given) or not self.pretrained
        makers: dict[str, Callable[[], Iterator[Step]]] = {}
        makers |= {} if alone else {"pretrain": partial(self._pretrain, data), "localize": self._localize}
        makers["finetune"] = partial(
            self._finetune, labeled, data, "given" if given else "random" if alone else "denoiser"
        )
        run_stages(stage, STAGES, lambda name: makers[name]() if name in makers else ())
        if labeled and self.bank and stage in (None, "finetune"):
            self.bank.run()

    def _preparation(self) -> list[Any]:
        """What makes slices of files."""
        dataset = self.dataset
        return [dataset.load, dataset.prepare, dataset.slicing, self.scoring["foreground_threshold"]]

    def _pretrain(self, data: Mapping[str, str]) -> Iterator[Step]:
        names = None if self.healthy.names is None else sorted(self.healthy.names)
        inputs = {**data, **self.pretrain.inputs(self.pretrain.states()), "healthy slices": settings_digest([names])}
        if self.healthy.folders:
            inputs["healthy_dir"] = cases_digest([*self.healthy.further, *self.healthy_val.further])

        def work() -> None:
            self.healthy.require_images()
            self.healthy_val.require_images()
            logger.info(
                "pre-training on %d healthy of %d slices, validation on %d of %d",
                len(self.healthy), len(self.dataset), len(self.healthy_val), len(self.val_dataset),
            )  # fmt: skip
            self.pretrain.run(inputs, range(len(self.healthy)), resume=self.resume)

        stages = Stages(self.pretrain_dir / "stages")
        files = [self.best_file, *(self.best_file.with_name(denoiser_name(number)) for number in self.kept)]
        yield Step("pretrain", stages, work, inputs, files, self.pretrain.check_resumed)

    def _localize(self) -> Iterator[Step]:
        dataset = self.test_dataset if len(self.test_dataset) else self.val_dataset
        part = "test" if dataset is self.test_dataset else "validation"
        inputs = {
            "denoiser": file_digest(self.denoiser_file) if self.denoiser_file.is_file() else "",
            "cases": cases_digest(dataset.data),
            "settings": settings_digest([*self._preparation(), self.scoring["bright_channel"], self.min_size]),
        }
        dose = "" if self.iteration is None else f"_{self.iteration}"
        report_file, maps = (self.pretrain_dir / name.replace(".", f"{dose}.") for name in (REPORT, MAPS))

        def work() -> None:
            if not is_main_process():
                return
            network, device = unwrap(self.pretrain.best.network), self.pretrain.device
            load_weights(network, self.denoiser_file, device=device)
            settings: dict[str, Any] = {**self.scoring, "min_size": self.min_size, "healthy": self.healthy.images}
            report = {"part": part} | localize_anomalies(dataset, network, device, **settings)
            write_json(report | {"measures": anomaly_measures(report)}, report_file)
            draw_anomaly_maps(dataset, network, device, maps, **self.scoring)
            logger.info("denoiser alone, %s part: %s", part, figures_text(report))

        # A picture that cannot be drawn is no reason to measure again.
        yield Step(f"localize{dose}", Stages(self.pretrain_dir / "stages"), work, inputs, [report_file])
        self._tell_measures(report_file)

    def _tell_measures(self, report_file: Path | None) -> None:
        """Writes the measures of the denoiser alone where those of the run lie; several runs may share a denoiser."""
        if is_main_process():
            report = {} if report_file is None else json.loads(report_file.read_text(encoding="utf-8"))
            write_json({"measures": report.get("measures", {})}, self.output_dir / ANOMALIES)

    def _finetune(self, labeled: Sequence[int], data: Mapping[str, str], origin: str) -> Iterator[Step]:
        """Trains on labels, from the ``denoiser``, ``given`` weights or ``random`` ones."""
        kept, pretrained = self.weights_file.with_name(DENOISER), origin == "denoiser"
        if not pretrained:
            self._tell_measures(None)
        if pretrained and is_main_process():
            # Labels bring weights, which the scale of the images comes with.
            announce = None if labeled else self.finetune.best.keep_companions
            save_atomically(read_checkpoint(self.denoiser_file), kept, announce=announce)
        wait_for_all()
        if not labeled:
            logger.info(
                "no labeled patient: the denoiser's anomaly score is the result, %s; no network and no signature bank",
                self.denoiser_file,
            )
            return
        start = file_digest(self.denoiser_file) if pretrained else origin
        inputs = {
            **data,
            **self.finetune.inputs(self.finetune.states()),
            "start": start,
            "labeled": settings_digest(list(labeled)),
        }

        def work() -> None:
            patients = len({person_of(self.dataset.slices[index]) for index in labeled})
            logger.info("fine-tuning on %d slices of %d patient(s), start: %s", len(labeled), patients, start[:12])
            if pretrained:
                network, device = self.finetune.best.network, self.finetune.device
                load_body_from(network, self.denoiser_file, head=self.head, device=device)
            # A run that was stopped before its last stage does not have a checkpoint of that stage. Nor does one that
            # waits for a denoiser of another run, where that was stopped.
            alone = not pretrained and self.pretrain_dir == self.output_dir
            self.finetune.run(inputs, labeled, resume=self.resume and (alone or self.finetune.begun))

        stages = Stages(self.output_dir / "stages")
        yield Step("finetune", stages, work, inputs, [self.weights_file], self.finetune.check_resumed)


def anomaly_measures(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns metric -> value over the whole set, under ``""``, of a denoiser and of its rivals.

    Args:
        report: What :func:`localize_anomalies` returned.
    """
    brighter = {f"brighter {name}": found for name, found in report.get("brighter", {}).items()}
    rivals = {**report.get("intensity", {}), **brighter, **report.get("rivals", {})}
    figures = {"denoiser": report} | {name.replace(" ", "_"): found for name, found in rivals.items()}
    kinds = {"ap": "average_precision", "dsc_best": "best_dice"}
    values = {f"{kind}_{name}": found[key] for name, found in figures.items() for kind, key in kinds.items()}
    return {name: {"": value} for name, value in values.items() if not math.isnan(value)}
