"""Draws the training cases that give their labels; the others go without."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDataError
from .cases import Case, Folders, decathlon_scans, labeled_cases, name_folders
from .folders import find_scans, unique_names
from .split import CaseSplit, except_files, patient_of, select_cases, split_cases, without_patients


def draw_labeled(cases: Sequence[Case], fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Divides training cases into labeled and unlabeled ones, task by task and by patient, reproducibly.

    Of one seed, the labeled patients of a smaller fraction are among those of a larger one.

    Args:
        cases: Training cases; those that share a ``patient`` stay together.
        fraction: Share of the patients of every task whose labels are used, in (0, 1]; at least one patient each.
        seed: Seed of the draw.

    Raises:
        ConfigError: When the fraction is not accepted.
    """
    check_fraction(fraction)
    everyone, chosen = {_person(case) for case in cases}, set()
    for task in sorted({task for task, _ in everyone}):
        patients = sorted(patient for own, patient in everyone if own == task)
        drawn = np.random.default_rng(seed).permutation(patients).tolist()
        chosen |= {(task, patient) for patient in drawn[-max(1, round(fraction * len(patients))) :]}
    parts: dict[bool, list[Case]] = {True: [], False: []}
    for case in cases:
        parts[_person(case) in chosen].append(case)
    return parts[True], parts[False]


def check_fraction(fraction: float) -> None:
    """Makes sure that a share of labels is in (0, 1].

    Raises:
        ConfigError: When it is not above 0, or above 1.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"labeled_fraction is {fraction}; accepted is above 0, up to 1 (all labels are used)")


def _person(case: Case) -> tuple[str, str]:
    """What tells patients apart, also those of two data sets that number them alike."""
    return str(case.get("task", "")), patient_of(case)


def without_labels(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases without their labels."""
    return [{key: value for key, value in case.items() if key != "label"} for case in cases]


class SemiSupervisedSplit(CaseSplit):
    """The parts of a run's data: ``train`` with labels, ``unlabeled`` without, ``val`` and ``test``.

    ``hidden`` are the cases of ``unlabeled`` with the labels that they have, which no training may read.

    Unlabeled are the training cases whose labels are not drawn, items of the listing without a label, and the scans of
    ``unlabeled_dir``; never one of a patient of ``val`` or ``test``, and none twice.

    Args:
        dataset_dir: Folder or folders of the data, see :func:`labeled_cases`.
        output_dir: Folder of the results, see :func:`labeled_cases`.
        val_fraction: Share of the patients that are for validation, see :func:`split_cases`.
        labeled_fraction: Share of the training patients whose labels are used, in (0, 1], see :func:`draw_labeled`. 0.2
            by default.
        labeled_cases: Names of the cases whose labels are used, in place of a draw. With ``None``, the default, they
            are drawn.
        unlabeled_dir: Folder or folders of scans without labels; ``None``, the default, for none.
        seed: Seed of the draw of the labeled cases. 0 by default.
        split_seed: Seed of the draw of the other parts and of phantoms. 0 by default.
        **settings: Further arguments of :class:`CaseSplit`.
    """

    def __init__(
        self,
        dataset_dir: Folders | None,
        output_dir: str,
        *,
        val_fraction: float,
        labeled_fraction: float = 0.2,
        labeled_cases: Sequence[str] | None = None,
        unlabeled_dir: Folders | None = None,
        seed: int = 0,
        split_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(dataset_dir, output_dir, val_fraction=val_fraction, seed=split_seed, **settings)
        self._fraction, self._names, self._seed = labeled_fraction, labeled_cases, seed
        self._dataset_dir, self._unlabeled_dir = dataset_dir, unlabeled_dir
        self._spatial_dims = int(settings.get("spatial_dims", 3))

    @cached_property
    def parts(self) -> dict[str, list[Case]]:
        """All parts, drawn when first asked for."""
        listed, further = labeled_cases(**self._source), self._further_scans()
        # Together: items of a listing without a label may be of the same patients.
        everything = self._describe([*listed, *further])
        split_file = self._draw["split_file"]
        if split_file:
            parts = {part: select_cases(everything, split_file, part) for part in ("train", "val")}
            parts["unlabeled"] = select_cases(everything, split_file, "unlabeled", required=False)
        else:
            cases = everything[: len(listed)]
            parts = self._divide(cases)
            scans = except_files(everything[len(listed) :], cases)
            held_out = [*parts["val"], *parts["test"]]
            parts["unlabeled"] += without_patients(scans, held_out, what="scans without labels")
        return parts | {"unlabeled": without_labels(parts["unlabeled"]), "hidden": parts["unlabeled"]}

    @property
    def further(self) -> list[Case]:
        """The scans of ``unlabeled_dir``, each folder a task; all there are for cases that are set from outside."""
        if not self._unlabeled_dir:
            return []
        settings: dict[str, Any] = {"spatial_dims": self._spatial_dims, "name": "unlabeled_dir"}
        named = name_folders(self._unlabeled_dir)
        scans = [case | {"task": task} for folder, task in named for case in find_scans(folder, **settings)]
        return unique_names(without_labels(scans))

    def _describe(self, cases: list[Case]) -> list[Case]:
        """The cases with what must be read of their labels before these are left out; nothing here."""
        return cases

    def _choose_labeled(self, cases: list[Case]) -> tuple[list[Case], list[Case]]:
        """The training cases whose labels are used, and the others."""
        return draw_labeled(cases, self._fraction, self._seed)

    def _divide(self, cases: list[Case]) -> dict[str, list[Case]]:
        """The labeled cases of the data sets in all four parts."""
        if self._names is None:
            parts = split_cases(cases, **self._draw)
            parts["train"], parts["unlabeled"] = self._choose_labeled(parts["train"])
            return parts
        named = [case for case in cases if case["case"] in set(self._names)]
        missing = sorted(set(self._names) - {case["case"] for case in named})
        if missing or not named:
            raise MissingDataError(f"labeled_cases names {missing[:5]}, which no data set has; give names of cases")
        persons = {_person(case) for case in named}
        parts = split_cases([case for case in cases if _person(case) not in persons], **self._draw)
        rest = [case for case in cases if _person(case) in persons and case not in named]
        return parts | {"train": named, "unlabeled": [*parts["train"], *rest]}

    def _further_scans(self) -> list[Case]:
        """Items of the listings that have no label, and the scans of ``unlabeled_dir``."""
        scans = []
        for folder, task in name_folders(self._dataset_dir) if self._dataset_dir else ():
            listed = decathlon_scans(folder, sections=("training",))
            scans += [case | {"task": task} for case in listed if "label" not in case]
        return scans + except_files(self.further, scans)


def unlabeled_cases(split: SemiSupervisedSplit, labeled: Sequence[Case], val_cases: Sequence[Case]) -> list[Case]:
    """Returns the unlabeled cases of a run.

    Args:
        split: Split that the cases come from.
        labeled: Labeled cases of the run. Where these were set from outside (MONAI Label, federated clients), only
            ``unlabeled_dir`` tells of unlabeled ones.
        val_cases: Validation cases, which are not unlabeled ones even if they lie in ``unlabeled_dir``.
    """
    own = split.drawn and list(labeled) == split.part("train")
    return split.part("unlabeled") if own else except_files(split.further, [*labeled, *val_cases])


def hidden_cases(
    split: SemiSupervisedSplit, labeled: Sequence[Case], pseudo_quality_interval: int | None = None
) -> list[Case]:
    """Returns the unlabeled cases whose labels exist, with these: pseudo labels are measured on them.

    Args:
        split: Split that the cases come from.
        labeled: Labeled cases of the run. Where these were set from outside, nothing is known of others.
        pseudo_quality_interval: Number of epochs between measurements. With ``None``, the default, there are none, and
            no such label is read.
    """
    if pseudo_quality_interval is None or not split.drawn or list(labeled) != split.part("train"):
        return []
    return [case for case in split.part("hidden") if "label" in case]


def cases_to_learn(unlabeled: Sequence[Case], labeled: Sequence[Case], *, teaching: str, mixing: str) -> list[Case]:
    """Returns the cases that are learned from without their labels.

    Args:
        unlabeled: Unlabeled cases.
        labeled: Labeled cases. They serve where there are no unlabeled ones, as with MONAI Label, which hands over no
            others.
        teaching: Name of the teaching. Where it and ``mixing`` are ``none``, nothing is learned from unlabeled cases.
        mixing: Name of the mixing, ``none`` for no mixing.
    """
    return [] if teaching == mixing == "none" else list(unlabeled) or without_labels(labeled)
