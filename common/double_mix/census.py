"""Counts what the labeled part of a training set holds, before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from torch import Tensor

from ..class_weights import ClassWeight
from ..data.cases import class_name

logger = logging.getLogger(__name__)


def count_classes(cases: Sequence[dict[str, Any]], transform: Callable[..., Any], num_classes: int) -> Tensor:
    """Returns the voxels of each class over the labels of all cases, ``(C,)`` int64.

    Args:
        cases: Labeled cases.
        transform: Function that loads a label and turns it into class indices.
        num_classes: Number of classes, C, background included.
    """
    labels = (torch.as_tensor(case["label"]).flatten().long() for case in Dataset(cases, transform))
    return torch.stack([label.bincount(minlength=num_classes) for label in labels]).sum(dim=0)


class ClassCensus:
    """Tells the class weights what the labeled set holds, once, and warns of classes that it lacks.

    Args:
        cases: Labeled cases.
        transform: Function that loads a label and turns it into class indices.
        class_weights: Class weights of both networks.
        foreground_labels: Data set -> label values of the classes that count, in order; for their names. With ``None``,
            the default, label values are class indices.
    """

    def __init__(
        self,
        cases: Sequence[dict[str, Any]],
        transform: Callable[..., Any],
        class_weights: Sequence[ClassWeight],
        foreground_labels: dict[str, Sequence[int]] | None = None,
    ) -> None:
        self.cases, self.transform, self.class_weights = cases, transform, list(class_weights)
        self.foreground_labels = dict(foreground_labels or {})
        self._done = False

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine; a checkpoint that is loaded later prevails."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _engine: Engine) -> None:
        """Counts, unless that was done: federated clients start an engine many times."""
        if self._done:
            return
        self._done = True
        counts = count_classes(self.cases, self.transform, self.class_weights[0].num_classes)
        for weight in self.class_weights:
            weight.start(counts.to(weight.weight.device))
        absent = [index for index, count in enumerate(counts.tolist()) if count == 0 and index > 0]
        for index in absent:
            logger.warning(
                "class %s never occurs in the labeled part (%d cases), so it cannot be learned: label a case of it "
                "or raise labeled_fraction",
                class_name(self.cases, index, self.foreground_labels),
                len(self.cases),
            )
