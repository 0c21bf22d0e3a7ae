"""Checks a training with class-wise pairs before it starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.cases import Case, class_name
from ..engine.training_checks import TrainingPreflight
from ..errors import NotEnoughCasesError
from .loader import Partners
from .methods import find_method
from .presence import UNKNOWN, PresenceReader, frames_to_learn, presence_table

logger = logging.getLogger(__name__)


def weak_frames(
    cases: Sequence[Case],
    presence: PresenceReader,
    *,
    method: str,
    presence_weight: float = 0.0,
    pseudo_weight: float = 0.0,
) -> list[Case]:
    """Returns the frames without masks that a training learns from, annotated with their classes.

    Args:
        cases: Frames without masks.
        presence: Reader that tells which classes each frame shows.
        method: Name of the method, one of ``METHODS``.
        presence_weight: Weight of the presence losses on their segmentation; 0, the default, for none.
        pseudo_weight: Weight of their pseudo labels; 0, the default, for none.
    """
    chosen, teaches = find_method(method), presence_weight > 0 or pseudo_weight > 0
    used = chosen.learns_without_masks or teaches
    # Views of a frame teach whatever it shows.
    needed = chosen.needs_presence or not chosen.learns_without_masks
    return frames_to_learn(cases, presence, needed=needed, used=used)


class ContrastivePreflight(TrainingPreflight):
    """Also tells what the frames say of their classes, and warns where no pair can be made.

    Args:
        labeled: Training frames whose masks are used; at least one.
        unlabeled: Training frames whose masks, if any, are not used.
        val_cases: Validation cases.
        used: Those of the unlabeled frames that the method learns from.
        presence: Reader that tells which classes each frame shows.
        num_classes: Number of classes, C, background included.
        method: Name of the method, one of ``METHODS``.
        classify_all: Whether frames with masks are classified as well. False by default.
        positives: Name of the relation that makes pairs, one of ``PAIRS``; ``equal`` by default.
        presence_weight: Weight of the presence losses; 0, the default, for none.
        pseudo_weight: Weight of the pseudo labels; 0, the default, for none.
        foreground_labels: Data set -> label values of the classes that count, in order. With ``None``, the default, all
            count.
        **settings: Further arguments of :class:`TrainingPreflight`.
    """

    def __init__(
        self,
        labeled: Sequence[Any],
        unlabeled: Sequence[Any],
        val_cases: Sequence[Any],
        *,
        used: Sequence[Any],
        presence: PresenceReader,
        num_classes: int,
        method: str,
        classify_all: bool = False,
        positives: str = "equal",
        presence_weight: float = 0.0,
        pseudo_weight: float = 0.0,
        foreground_labels: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__([*labeled, *unlabeled], val_cases, foreground_labels=foreground_labels, **settings)
        self.labeled, self.unlabeled, self.used = labeled, unlabeled, used
        self.presence, self.num_classes = presence, num_classes
        self.method, self.classify_all, self.positives = find_method(method), classify_all, positives
        self.taught = {"presence_weight": presence_weight, "pseudo_weight": pseudo_weight}

    def _check_sources(self) -> None:
        """Raises as the base does, and without masks; warns of what cannot be learned."""
        super()._check_sources()
        if not self.labeled:
            raise NotEnoughCasesError("no frame with a mask to train on; add cases to dataset_dir")
        cases = self.presence.annotate([*self.labeled, *self.used])
        table, phase = presence_table(cases, self.num_classes)
        told = table[table[:, 0] != UNKNOWN]
        logger.info(
            "%d frame(s) with masks, %d with their classes alone; %d set(s) of classes, %d frame(s) with a phase",
            len(self.labeled), len(told) - len(self.labeled), len(torch.unique(told, dim=0)), int((phase >= 0).sum()),
        )  # fmt: skip
        for index in (table[: len(self.labeled)].sum(dim=0) == 0).nonzero().flatten().tolist():
            logger.warning(
                "class %s never occurs in the frames with masks (%d), so it cannot be segmented: mark a frame of it or "
                "raise labeled_fraction",
                class_name([*self.labeled, *self.val_cases], index + 1, self.foreground_labels), len(self.labeled),
            )  # fmt: skip
        if self.method.classifies and not self.used and not self.classify_all:
            logger.warning("every frame has a mask, so the classification learns nothing: set classify_all")
        for name, weight in self.taught.items():
            if weight and not self.used:
                logger.warning("every frame has a mask, so %s teaches nothing: add frames without masks", name)
        if self.method.pairs == "classes" and self.positives == "equal":
            self._check_pairs(Partners(table, phase, len(self.labeled)), len(cases))

    @staticmethod
    def _check_pairs(partners: Partners, count: int) -> None:
        """Warns of frames that have no positive."""
        lonely = len(partners.lonely())
        if lonely == count:
            logger.warning(
                "no two of the %d training frames show the same set of classes in the same phase, so no pair can be "
                "made and the contrastive term is 0: add frames, or set method to classification or unet",
                count,
            )
        elif lonely:
            logger.warning(
                "%d of %d training frames show a set of classes (in a phase) that no other shows: they have no "
                "positive pair and count as negatives alone",
                lonely, count,
            )  # fmt: skip

    def _parts(self) -> dict[str, Sequence[Any]]:
        """The cases of the run; frames without masks also where nothing is learned from them."""
        return super()._parts() | {"train": self.labeled, "unlabeled": self.unlabeled}
