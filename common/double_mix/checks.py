"""Checks, before training, that two networks can train each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..engine.training_checks import TrainingPreflight
from ..errors import NotEnoughCasesError

logger = logging.getLogger(__name__)


class CoTrainingPreflight(TrainingPreflight):
    """Also finds what would keep two networks from training each other.

    Args:
        labeled: Training cases whose labels are used.
        unlabeled: Training cases whose labels, if any, are not used.
        val_cases: Validation cases.
        teaching: Name of the way to learn from unlabeled cases. With ``none`` and without mixing, none are needed.
        mixing: Name of the mixing, ``none`` for no mixing.
        **settings: Further arguments of :class:`TrainingPreflight`.
    """

    def __init__(
        self,
        labeled: Sequence[Any],
        unlabeled: Sequence[Any],
        val_cases: Sequence[Any],
        *,
        teaching: str,
        mixing: str,
        **settings: Any,
    ) -> None:
        super().__init__([*labeled, *unlabeled], val_cases, **settings)
        self.labeled, self.unlabeled = labeled, unlabeled
        self.needs_unlabeled = not teaching == mixing == "none"

    def _check_sources(self) -> None:
        """Raises as the base does, and when there is nothing to learn from without labels."""
        super()._check_sources()
        if self.needs_unlabeled and not self.unlabeled:
            self._check_unlabeled()

    def _check_unlabeled(self) -> None:
        """Raises where a drawn split leaves no unlabeled case; lists set from outside cannot name any."""
        found = f"no unlabeled case is left beside {len(self.labeled)} labeled one(s)"
        if self.split is not None and self.split.drawn:
            raise NotEnoughCasesError(
                f"{found}; lower labeled_fraction, give unlabeled_dir, or lay configs/supervised.json over train.json"
            )
        logger.warning("%s; these are also learned from without their labels; give unlabeled_dir for others", found)

    def _parts(self) -> dict[str, Sequence[Any]]:
        """The cases of the run; unlabeled ones also where nothing is learned from them."""
        return super()._parts() | {"train": self.labeled, "unlabeled": self.unlabeled}
