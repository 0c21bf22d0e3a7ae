"""Draws the frames that give their masks; the others give their classes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.cases import Case, Folders
from ..data.semi_supervised import SemiSupervisedSplit, check_fraction, draw_labeled
from ..errors import ConfigError
from .presence import PresenceReader


def draw_frames(cases: Sequence[Case], fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Divides training frames into those whose masks are used and the others, task by task, reproducibly.

    First comes, for every class, the rarest first, a frame that shows it, unless one drawn for another class does. Who
    knows the classes of all frames would not mark a handful of frames without any. Of one seed, the frames of a smaller
    fraction are among those of a larger one.

    Args:
        cases: Training frames, annotated, see :class:`PresenceReader`.
        fraction: Share of the frames of every task whose masks are used, in (0, 1]; at least one frame each.
        seed: Seed of the draw.

    Raises:
        ConfigError: When the fraction is not accepted.
    """
    check_fraction(fraction)
    chosen: set[int] = set()
    for task in sorted({str(case.get("task", "")) for case in cases}):
        members = [index for index, case in enumerate(cases) if str(case.get("task", "")) == task]
        drawn = np.random.default_rng(seed).permutation(members).tolist()
        shown = [index for member in members for index in cases[member].get("present", ())]
        first: list[int] = []
        for name in sorted(set(shown), key=lambda name: (shown.count(name), name)):
            if not any(name in cases[index].get("present", ()) for index in first):
                first.append(next(index for index in drawn if name in cases[index].get("present", ())))
        order = [*first, *(index for index in drawn if index not in set(first))]
        chosen |= set(order[: max(1, round(fraction * len(members)))])
    parts: dict[bool, list[Case]] = {True: [], False: []}
    for index, case in enumerate(cases):
        parts[index in chosen].append(case)
    return parts[True], parts[False]


class ClasswiseSplit(SemiSupervisedSplit):
    """The parts of a run's data: ``train`` with masks, ``unlabeled`` with classes alone, ``val`` and ``test``.

    Validation and test cases are drawn by patient, video or operation; the masks of what is left, by default, frame by
    frame.

    Args:
        dataset_dir: Folder or folders of the data, see :func:`labeled_cases`.
        output_dir: Folder of the results, see :func:`labeled_cases`.
        presence: Reader that tells the classes of every frame, before masks are left out.
        labeled_by: Way to draw the masks: ``frame``, the default, see :func:`draw_frames`, or ``patient``, see
            :func:`draw_labeled`.
        **settings: Further arguments of :class:`SemiSupervisedSplit`.

    Raises:
        ConfigError: When ``labeled_by`` is not accepted.
    """

    def __init__(
        self,
        dataset_dir: Folders | None,
        output_dir: str,
        *,
        presence: PresenceReader,
        labeled_by: str = "frame",
        **settings: Any,
    ) -> None:
        draws = {"frame": draw_frames, "patient": draw_labeled}
        if labeled_by not in draws:
            raise ConfigError(f"labeled_by is {labeled_by!r}; accepted are {' and '.join(draws)}")
        super().__init__(dataset_dir, output_dir, **settings)
        self._presence, self._choose = presence, draws[labeled_by]

    def _describe(self, cases: list[Case]) -> list[Case]:
        """The cases with the classes that they show."""
        return self._presence.annotate(cases)

    def _choose_labeled(self, cases: list[Case]) -> tuple[list[Case], list[Case]]:
        """The training frames whose masks are used, and the others."""
        return self._choose(cases, self._fraction, self._seed)
