"""Measures pseudo labels, while a training goes on, against labels that it does not use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..data.cases import class_name
from ..errors import ConfigError
from ..figures import draw_curves
from ..metrics.masks import class_masks
from ..runtime.distributed import is_main_process
from .step import CoTrainingStep
from .students import StudentStep

logger = logging.getLogger(__name__)

METRIC = "pseudo_dice"


class PseudoLabelQuality:
    """Adds the Dice of pseudo labels to the metrics of an epoch: ``pseudo_dice`` and ``pseudo_dice/<class>``.

    Whole unlabeled images are labeled as a step does it, by the networks that teach in it. Voxels are added up over all
    images and teachers before the Dice is taken. A class that neither labels nor pseudo labels hold has none. Training
    draws and learns as without it. The main process measures alone.

    Args:
        step: Iteration of the engine.
        network: Network that is trained, perhaps in a data-parallel wrapper.
        dataset: Items with ``image``, ``(n, H, W[, D])``, and ``label``, class indices ``(1, H, W[, D])``, of unlabeled
            cases whose labels exist. No data loader: one draws a seed, which training would notice.
        inferer: Inferer of whole images, called with images and a network.
        num_classes: Number of classes C, background included.
        history: Object with ``epochs``, a list of the metrics of each epoch, for the picture.
        output_dir: Folder of ``pseudo_labels.png``.
        pseudo_quality_interval: Number of epochs between measurements, at least 1. With ``None``, the default, nothing
            is measured.
        cases: Cases whose data sets tell the names of the classes. Default none.
        foreground_labels: Data set -> label values of the classes, in order. With ``None``, the default, label values
            are class indices.

    Raises:
        ConfigError: When the interval is below 1.
    """

    def __init__(
        self,
        step: CoTrainingStep | StudentStep,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        inferer: Any,
        *,
        num_classes: int,
        history: Any,
        output_dir: str,
        pseudo_quality_interval: int | None = None,
        cases: Sequence[Mapping[str, Any]] = (),
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if pseudo_quality_interval is not None and pseudo_quality_interval < 1:
            raise ConfigError(
                f"pseudo_quality_interval is {pseudo_quality_interval}; accepted are epochs from 1, or none"
            )
        self.step, self.network, self.dataset, self.inferer = step, network, dataset, inferer
        self.num_classes, self.history, self.output_dir = num_classes, history, Path(output_dir)
        self.interval, self.cases, self.foreground_labels = pseudo_quality_interval, cases, foreground_labels

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine, before the handlers that record or write its metrics."""
        if self.interval is not None and is_main_process():
            engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
            engine.add_event_handler(Events.COMPLETED, self.write)

    def _forget(self, engine: Engine) -> None:
        """An epoch without a measurement must not show that of an earlier one."""
        found = engine.state.metrics
        for name in [name for name in found if name.split("/")[0] == METRIC]:
            del found[name]

    def __call__(self, engine: Engine) -> None:
        """Measures after an epoch."""
        dice = pooled_dice(self.measure())
        if not dice:
            logger.warning("no unlabeled case has a label, so the quality of pseudo labels is not measured")
            return
        mean = sum(dice.values()) / len(dice)
        engine.state.metrics |= {METRIC: mean} | {f"{METRIC}/{index}": value for index, value in dice.items()}

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Returns voxels in both, of pseudo labels, and of labels, for each foreground class, ``(3, C - 1)`` int64."""
        teachers = self.step.teachers(self.network)
        modes = [teacher.training for teacher in teachers]
        total = torch.zeros(3, self.num_classes - 1, dtype=torch.int64)
        try:
            for teacher in teachers:
                teacher.eval()
            for index in range(len(self.dataset)):
                item = self.dataset[index]
                image, label = (torch.as_tensor(item[name])[None].to(self.step.device) for name in ("image", "label"))
                for number, teacher in enumerate(teachers):
                    pseudo = self.step.label(self.inferer(image, teacher), number)
                    total += overlaps(pseudo, label, self.num_classes).cpu()
        finally:
            for teacher, mode in zip(teachers, modes, strict=True):
                teacher.train(mode)
        return total

    def write(self, _engine: Engine) -> None:
        """Draws the Dice of each class over the epochs."""
        epochs: Sequence[Mapping[str, float]] = [epoch for epoch in self.history.epochs if METRIC in epoch]
        if not epochs:
            return
        names = sorted({name for epoch in epochs for name in epoch if name.split("/")[0] == METRIC}, key=_order)
        curves = {
            self._title(name): [(epoch["epoch"], epoch[name]) for epoch in epochs if name in epoch] for name in names
        }
        path = self.output_dir / "pseudo_labels.png"
        draw_curves({"pseudo labels": curves}, path, xlabel="epoch", ylabel="Dice on unlabeled cases")

    def _title(self, name: str) -> str:
        """What a metric is called in the picture."""
        index = name.removeprefix(f"{METRIC}/")
        return "mean" if name == METRIC else f"class {class_name(self.cases, int(index), self.foreground_labels)}"


def overlaps(y_pred: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Returns voxels in both, of the prediction, and of the truth, for each foreground class, ``(3, C - 1)`` int64.

    Args:
        y_pred: Class indices, ``(B, 1, H, W[, D])``.
        y: Class indices of the truth, of the same shape.
        num_classes: Number of classes C, background included.
    """
    predicted, truth = (class_masks(item.long(), num_classes)[:, 1:] for item in (y_pred, y))
    axes = [0, *range(2, y.ndim)]
    return torch.stack([part.sum(axes) for part in (predicted & truth, predicted, truth)])


def pooled_dice(sums: Tensor) -> dict[int, float]:
    """Returns class -> Dice of what :func:`overlaps` counts; classes that nobody holds are left out.

    Args:
        sums: Numbers of voxels, ``(3, C - 1)``, of the foreground classes.
    """
    rows = enumerate(sums.T.tolist(), start=1)
    return {index: 2 * both / (first + second) for index, (both, first, second) in rows if first + second}


def _order(name: str) -> tuple[int, int]:
    """The mean before the classes, and these by their number."""
    _, _, index = name.partition("/")
    return (0, 0) if not index else (1, int(index))
