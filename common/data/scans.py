"""Lists scans to segment or to judge: whatever images a folder holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..dicom.tree import DicomTree, describe_tree
from ..errors import ConfigError
from ..phantoms.volumes import PHANTOM_TASKS, ood_tasks
from ..runtime.files import write_json
from ..runtime.listing import describe_path, write_skipped
from .cases import Case, Folders, labeled_cases, task_name
from .folders import FolderContent, require_scans, search_folder, unique_names
from .names import free_name
from .seen import warn_of_training_cases
from .semi_supervised import without_labels
from .split import select_cases

SERIES_FILE = "dicom_series.json"
"""File of the results that tells which case is which DICOM series."""


def scans_to_segment(
    dataset_dir: Folders | None,
    output_dir: str,
    *,
    spatial_dims: int = 3,
    seed: int = 0,
    phantom_tasks: Sequence[str] = PHANTOM_TASKS,
    list_paths: bool = False,
) -> list[Case]:
    """Returns the scans that inference segments: of ``dataset_dir``, or phantoms, in- and out-of-distribution ones.

    ``output_dir/skipped_files.json`` lists every file of the folders that is not used, with the reason. Where a folder
    holds DICOM, ``output_dir/dicom_series.json`` tells which case is which series.

    Args:
        dataset_dir: Folder or list of folders; ``None`` or empty for phantoms.
        output_dir: Folder of both listings; phantoms are written below ``output_dir/phantoms``.
        spatial_dims: Number of spatial axes, 2 or 3. 3 by default.
        seed: Seed of the phantoms. 0 by default.
        phantom_tasks: Tasks of the phantoms that are in-distribution; ``PHANTOM_TASKS`` by default.
        list_paths: Whether the listings show names of files and folders where a folder holds DICOM, which may be names
            of patients. With false, the default, they show digests of them.

    Raises:
        MissingDataError: When a folder is missing or holds no scan.
        OutputError: When a listing cannot be written.
    """
    contents = _search(dataset_dir, spatial_dims)
    cases = _to_segment([case for content in contents for case in content.cases])
    _list_series(contents, cases, output_dir, list_paths)
    _list_skipped(contents, output_dir, list_paths)
    if not dataset_dir:
        groups = phantom_test_cases(output_dir, spatial_dims=spatial_dims, seed=seed, phantom_tasks=phantom_tasks)
        return _to_segment(groups["in_distribution"] + groups["out_of_distribution"])
    for content in contents:
        # Only now, so that the listing says why nothing was found.
        require_scans(content, spatial_dims)
    return cases


def _search(folders: Folders | None, spatial_dims: int, name: str = "dataset_dir") -> list[FolderContent]:
    """What the folders hold; a file that a ``dataset.json`` lists may be missing."""
    given = [folders] if folders and isinstance(folders, str) else list(folders or ())
    return [search_folder(folder, spatial_dims, name, complete=False) for folder in given]


def _common_root(contents: Sequence[FolderContent]) -> str:
    """The folder that paths are relative to: of several folders, they begin with the part that tells these apart."""
    return os.path.commonpath([os.path.abspath(content.folder) for content in contents])


def _list_series(contents: Sequence[FolderContent], cases: Sequence[Case], output_dir: str, list_paths: bool) -> None:
    """Writes which case is which DICOM series, or removes what an earlier run wrote."""
    path = Path(output_dir) / SERIES_FILE
    trees = [content.tree for content in contents if content.tree.is_dicom]
    if not trees:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return
    names = [case["case"] for case in cases if not isinstance(case["image"], str)]
    tree = DicomTree(
        [item for part in trees for item in part.series], [item for part in trees for item in part.skipped]
    )
    write_json(describe_tree(tree, names, _common_root(contents), list_paths=list_paths), path)


def _list_skipped(contents: Sequence[FolderContent], output_dir: str, list_paths: bool = False) -> None:
    """Writes what is not used, of all folders; of those that hold DICOM by digests, unless paths are asked for."""
    skipped = [
        {
            "file": describe_path(item.file, _common_root(contents), shown=list_paths or not content.tree.is_dicom),
            "reason": item.reason,
        }
        for content in contents
        for item in content.tree.skipped
    ]
    write_skipped(skipped, output_dir)


def _to_segment(cases: Sequence[Case]) -> list[Case]:
    """The cases without labels, each with a name of its own."""
    return unique_names(without_labels(cases))


def evaluation_cases(
    dataset_dir: Folders | None,
    ood_dir: Folders | None,
    output_dir: str,
    *,
    model_dir: str | None = None,
    spatial_dims: int = 3,
    seed: int = 0,
    split_file: str | None = None,
    split_part: str = "test",
    damages: Sequence[str] = (),
    cases_per_group: int | None = None,
    phantom_tasks: Sequence[str] = PHANTOM_TASKS,
) -> list[Case]:
    """Returns the cases of an evaluation, each with its ``group`` and whether it is ``in_distribution``.

    ``output_dir/skipped_files.json`` lists every file of the folders that is not used, see :func:`scans_to_segment`.

    Args:
        dataset_dir: Folder or folders of in-distribution cases, with labels or without; ``None`` or empty for phantoms.
        ood_dir: Folder or folders of out-of-distribution cases, with labels or without. ``None`` or empty for none;
            where in-distribution cases are phantoms, these come with out-of-distribution ones.
        output_dir: Folder of the listing; phantoms are written below ``output_dir/phantoms``.
        model_dir: Folder of the weights. Where it tells the cases of their training, these are warned of. ``None``, the
            default, for no warning.
        spatial_dims: Number of spatial axes, 2 or 3. 3 by default.
        seed: Seed of the phantoms. 0 by default.
        split_file: Path of the ``split.json`` of a training run; only its ``split_part`` of the in-distribution cases
            is used. With ``None``, the default, all are.
        split_part: Part of the split file that is used; ``test`` by default.
        damages: Names of damages. For each, all in-distribution cases come once more, damaged, as an
            out-of-distribution group. None by default.
        cases_per_group: Largest number of cases of each out-of-distribution group, at least 1: they are taken evenly
            over the group. ``None``, the default, for all.
        phantom_tasks: Tasks of the phantoms that are in-distribution; ``PHANTOM_TASKS`` by default.

    Raises:
        ConfigError: When ``cases_per_group`` is below 1.
        MissingDataError: When a folder is missing or holds no scan.
    """
    taken = {"in_distribution", "pooled", "training", "worst"}
    contents, others = _search(dataset_dir, spatial_dims), _search(ood_dir, spatial_dims, "ood_dir")
    _list_skipped([*contents, *others], output_dir)
    if contents:
        inside = _describe_folders(contents, spatial_dims, taken, in_distribution=True)
        outside: list[Case] = []
    else:
        groups = phantom_test_cases(output_dir, spatial_dims=spatial_dims, seed=seed, phantom_tasks=phantom_tasks)
        inside = [case | {"group": case["task"], "in_distribution": True} for case in groups["in_distribution"]]
        outside = [case | {"group": case["task"], "in_distribution": False} for case in groups["out_of_distribution"]]
    if others:
        outside = _describe_folders(others, spatial_dims, taken, in_distribution=False)
    inside = select_cases(inside, split_file, split_part)
    if model_dir is not None:
        warn_of_training_cases(inside, model_dir, asked=split_part if split_file else None)
    damaged = [
        case | {"case": f"{case['case']}_{name}", "group": name, "damage": name, "in_distribution": False}
        for name in damages
        for case in inside
    ]
    return unique_names([*inside, *_thin([*outside, *damaged], cases_per_group)])


def _thin(cases: Sequence[Case], cases_per_group: int | None) -> list[Case]:
    """Some cases of each group, evenly over it."""
    if cases_per_group is None:
        return list(cases)
    if cases_per_group < 1:
        raise ConfigError(f"cases_per_group is {cases_per_group}; accepted are numbers from 1, or none for all")
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case["group"], []).append(case)
    return [
        members[number * len(members) // min(cases_per_group, len(members))]
        for members in groups.values()
        for number in range(min(cases_per_group, len(members)))
    ]


def _describe_folders(
    contents: Sequence[FolderContent], spatial_dims: int, taken: set[str], *, in_distribution: bool
) -> list[Case]:
    """The cases of one or several folders, each a group with a name that no other has, added to ``taken``."""
    cases = []
    # Tasks are numbered among these folders alone, as in training, so that a split file names the same cases.
    tasks: set[str] = set()
    setting = "dataset_dir" if in_distribution else "ood_dir"
    for content in contents:
        name = task_name(content.folder)
        description = {"group": free_name(name, taken), "in_distribution": in_distribution}
        description["task"] = free_name(name, tasks)
        cases += [case | description for case in require_scans(content, spatial_dims, setting).cases]
    return cases


def phantom_test_cases(
    output_dir: str, *, spatial_dims: int = 3, seed: int = 0, phantom_tasks: Sequence[str] = PHANTOM_TASKS
) -> dict[str, list[Case]]:
    """Returns phantoms that no training has seen: of the training's kinds, and of other kinds.

    Args:
        output_dir: Folder of the results; phantoms are written below ``output_dir/phantoms``.
        spatial_dims: Number of spatial axes, 2 or 3. 3 by default.
        seed: Seed of the training's phantoms, 0 by default; the ones made here have another.
        phantom_tasks: Tasks of the training's phantoms; ``PHANTOM_TASKS`` by default.
    """
    groups = {"in_distribution": tuple(phantom_tasks), "out_of_distribution": ood_tasks(phantom_tasks)}
    return {
        group: labeled_cases(
            None, output_dir, spatial_dims=spatial_dims, phantom_tasks=members, phantom_cases=6, seed=seed + 1000
        )
        for group, members in groups.items()
    }
