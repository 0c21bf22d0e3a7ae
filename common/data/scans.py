"""Scans to segment: whatever images a folder holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..dicom.series import series_name
from ..dicom.tree import DicomTree, describe_tree, find_series
from ..errors import MissingDataError
from ..phantoms.volumes import PHANTOM_TASKS, strange_tasks
from ..runtime.files import write_json
from ..runtime.sources import PICTURE_SUFFIXES, VOLUME_SUFFIXES
from .cases import Case, Folders, case_name, decathlon_scans, labeled_cases, task_name
from .endoscopy import is_endoscopy
from .names import free_name, safe_name
from .split import select_cases

LISTING = "dicom_series.json"
"""File of the results that tells which case is which DICOM series."""


@dataclass(frozen=True)
class _Found:
    """What a folder holds; the cases of DICOM series come last, in the order of the series."""

    cases: list[Case]
    tree: DicomTree = field(default_factory=DicomTree)


def find_scans(folder: str | Path, *, spatial_dims: int = 3, name: str = "dataset_dir") -> list[Case]:
    """Returns every scan of a folder.

    Args:
        folder: a Decathlon folder (its training and test images), or image files, or DICOM series, these in a tree of
            folders of any depth. A series is named by its UID alone: PACS exports name folders after patients.
        spatial_dims: 3 looks for volumes, 2 for pictures as well.
        name: what a message calls the folder.

    Raises:
        MissingDataError: when the folder does not exist or holds no scan.
    """
    found = _search(Path(folder), spatial_dims, name, complete=True)
    return _required(folder, found, spatial_dims, name).cases


def _search(root: Path, spatial_dims: int, name: str = "dataset_dir", *, complete: bool = False) -> _Found:
    """Everything usable in a folder, and what is not."""
    if not root.is_dir():
        raise MissingDataError(f"{name} {root} does not exist; give a folder of scans")
    if (root / "dataset.json").is_file() or is_endoscopy(root):
        return _Found(decathlon_scans(root, complete=complete))
    suffixes = _suffixes(spatial_dims)
    files = [path for path in sorted(root.iterdir()) if path.is_file() and path.name.lower().endswith(suffixes)]
    tree = find_series(root, known=[str(path) for path in files])
    cases: list[Case] = [{"image": str(path), "case": case_name(path)} for path in files]
    cases += [{"image": item.files, "case": series_name(item.uid)} for item in tree.series]
    return _Found([case | {"task": task_name(root)} for case in unique_names(cases)], tree)


def _required(folder: str | Path, found: _Found, spatial_dims: int, name: str = "dataset_dir") -> _Found:
    """What was found, which must be something."""
    if found.cases:
        return found
    skipped = f" (skipped: {found.tree.reasons})" if found.tree.skipped else ""
    accepted = f"{', '.join(_suffixes(spatial_dims))} and DICOM series"
    raise MissingDataError(f"{name} {folder} holds no scan{skipped}; accepted are {accepted}")


def _suffixes(spatial_dims: int) -> tuple[str, ...]:
    """Endings of accepted files."""
    return VOLUME_SUFFIXES + (PICTURE_SUFFIXES if spatial_dims == 2 else ())


def scans_to_segment(
    dataset_dir: Folders | None,
    output_dir: str,
    *,
    spatial_dims: int = 3,
    seed: int = 0,
    tasks: Sequence[str] = PHANTOM_TASKS,
) -> list[Case]:
    """Returns the scans that inference segments: of ``dataset_dir``, or phantoms, known and strange ones.

    Where a folder holds DICOM, ``output_dir/dicom_series.json`` tells which case is which series, and which files were
    skipped why.

    Args:
        dataset_dir: a folder or a list of folders; ``None`` or empty for phantoms.
        output_dir: folder of ``dicom_series.json``; phantoms are written below ``output_dir/phantoms``.
        spatial_dims: 2 or 3.
        seed: of the phantoms.
        tasks: of the phantoms that are known.

    Raises:
        MissingDataError: when a folder is missing or holds no scan.
        OutputError: when ``dicom_series.json`` cannot be written.
    """
    if not dataset_dir:
        groups = phantom_test_cases(output_dir, spatial_dims=spatial_dims, seed=seed, tasks=tasks)
        return _to_segment(groups["in_distribution"] + groups["out_of_distribution"])
    folders = [dataset_dir] if isinstance(dataset_dir, str) else list(dataset_dir)
    found = [_search(Path(folder), spatial_dims) for folder in folders]
    cases = _to_segment([case for part in found for case in part.cases])
    tree = DicomTree(
        [item for part in found for item in part.tree.series], [item for part in found for item in part.tree.skipped]
    )
    if tree.series or tree.skipped:
        names = [case["case"] for case in cases if not isinstance(case["image"], str)]
        # Of several folders, paths begin with the part that tells these apart.
        root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
        write_json(describe_tree(tree, names, root), Path(output_dir) / LISTING)
    for folder, part in zip(folders, found, strict=True):
        # Only now, so that the listing says why nothing was found.
        _required(folder, part, spatial_dims)
    return cases


def _to_segment(cases: Sequence[Case]) -> list[Case]:
    """The cases without labels, each with a name of its own."""
    return unique_names([{key: value for key, value in case.items() if key != "label"} for case in cases])


def evaluation_cases(
    dataset_dir: Folders | None,
    ood_dir: Folders | None,
    output_dir: str,
    *,
    spatial_dims: int = 3,
    seed: int = 0,
    split_file: str | None = None,
    part: str = "test",
    damages: Sequence[str] = (),
    tasks: Sequence[str] = PHANTOM_TASKS,
) -> list[Case]:
    """Returns the cases of an evaluation, each with its ``group`` and whether it is ``in_distribution``.

    Args:
        dataset_dir: in-distribution folders, with labels or without; ``None`` or empty for phantoms.
        ood_dir: out-of-distribution folders, with labels or without; ``None`` for none.
        output_dir: phantoms are written below ``output_dir/phantoms``.
        spatial_dims: 2 or 3.
        seed: of the phantoms.
        split_file: ``split.json`` of a training run; only its ``part`` of the in-distribution cases is used.
        part: see ``split_file``.
        damages: for each, all in-distribution cases once more, damaged, as an out-of-distribution group.
        tasks: of the phantoms that are in-distribution.

    Raises:
        MissingDataError: when a folder is missing or holds no scan.
    """
    taken = {"in_distribution", "pooled", "training", "worst"}
    if dataset_dir:
        known = _folders(dataset_dir, spatial_dims, taken, in_distribution=True)
        strange: list[Case] = []
    else:
        groups = phantom_test_cases(output_dir, spatial_dims=spatial_dims, seed=seed, tasks=tasks)
        known = [case | {"group": case["task"], "in_distribution": True} for case in groups["in_distribution"]]
        strange = [case | {"group": case["task"], "in_distribution": False} for case in groups["out_of_distribution"]]
    if ood_dir:
        strange = _folders(ood_dir, spatial_dims, taken, in_distribution=False)
    known = select_cases(known, split_file, part)
    damaged = [
        case | {"case": f"{case['case']}_{name}", "group": name, "damage": name, "in_distribution": False}
        for name in damages
        for case in known
    ]
    return unique_names([*known, *strange, *damaged])


def _folders(folders: Folders, spatial_dims: int, taken: set[str], *, in_distribution: bool) -> list[Case]:
    """The cases of one or several folders, each a group with a name that no other has, added to ``taken``."""
    cases = []
    # Tasks are numbered among these folders alone, as in training, so that a split file names the same cases.
    tasks: set[str] = set()
    for folder in [folders] if isinstance(folders, str) else folders:
        name = task_name(folder)
        description = {"group": free_name(name, taken), "in_distribution": in_distribution}
        description["task"] = free_name(name, tasks)
        found = _required(folder, _search(Path(folder), spatial_dims), spatial_dims)
        cases += [case | description for case in found.cases]
    return cases


def phantom_test_cases(
    output_dir: str, *, spatial_dims: int = 3, seed: int = 0, tasks: Sequence[str] = PHANTOM_TASKS
) -> dict[str, list[Case]]:
    """Returns phantoms that no training has seen: of the training's kinds, and of other kinds.

    Args:
        output_dir: they are written below ``output_dir/phantoms``.
        spatial_dims: 2 or 3.
        seed: of the training's phantoms; the ones made here have another.
        tasks: of the training's phantoms.
    """
    groups = {"in_distribution": tuple(tasks), "out_of_distribution": strange_tasks(tasks)}
    return {
        group: labeled_cases(
            None, output_dir, spatial_dims=spatial_dims, tasks=members, cases_per_task=6, seed=seed + 1000
        )
        for group, members in groups.items()
    }


def unique_names(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases with safe names, and a number appended to one that occurs before.

    So no result overwrites another, on file systems that ignore case neither, nor lies outside ``output_dir``.
    """
    taken: set[str] = set()
    return [case | {"case": free_name(safe_name(str(case["case"])), taken)} for case in cases]
