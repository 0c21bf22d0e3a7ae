"""Lists of labeled cases: where they come from, and how they are split by patient.

A case is a dictionary with ``image``, ``label`` (paths), ``case`` (its name), ``task`` (the data set it belongs to)
and, where known, ``patient``, ``modality`` and ``classes`` (accepted label values). No key starts with ``image_`` or
``label_``: MONAI 1.6.1's ``Spacingd`` takes such keys for metadata.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import load_decathlon_datalist

from ..errors import ConfigError, MissingDataError, NotEnoughCasesError
from ..files import write_json
from .phantoms import PHANTOM_TASKS, phantom_dataset

logger = logging.getLogger(__name__)

Case = dict[str, Any]
Folders = str | Sequence[str]


def case_name(path: str | Path) -> str:
    """Returns the file name without ``.nii.gz`` or any other suffix."""
    name = Path(path).name
    name = name[:-3] if name.lower().endswith(".gz") else name
    return name.rsplit(".", 1)[0]


def read_modality(description: dict[str, Any]) -> str | None:
    """Returns ``CT`` or ``MR`` from the first entry of ``modality`` in a Decathlon ``dataset.json``, if it says so."""
    text = str(description.get("modality", {}).get("0", "")).upper()
    return "CT" if text.startswith("CT") else "MR" if text.startswith("MR") else None


def decathlon_cases(folder: str | Path) -> list[Case]:
    """Returns the labeled cases of a folder in the layout of the Medical Segmentation Decathlon.

    Args:
        folder: holds ``dataset.json`` with a list ``training`` of images and labels.

    Raises:
        MissingDataError: when the folder, its ``dataset.json`` or its list is missing, empty or not readable.
    """
    root = Path(folder)
    listing = root / "dataset.json"
    if not listing.is_file():
        reason = "holds no dataset.json" if root.is_dir() else "does not exist"
        raise MissingDataError(
            f"dataset_dir {root} {reason}; expected is a Decathlon folder with dataset.json, imagesTr and labelsTr"
        )
    try:
        description = json.loads(listing.read_text(encoding="utf-8"))
        items = load_decathlon_datalist(str(listing), True, "training")
        cases = _describe_items(items, description, root.resolve().name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingDataError(
            f"{listing} is no Decathlon listing ({type(error).__name__}: {error}); it needs a list 'training' of pairs "
            "'image' and 'label', and 'labels' and 'modality' as {number: name}"
        ) from error
    if not cases:
        raise MissingDataError(f"{listing} lists no training case; its list 'training' is empty")
    missing = [path for case in cases for path in (case["image"], case["label"]) if not Path(path).is_file()]
    if missing:
        raise MissingDataError(f"{listing} lists {len(missing)} file(s) that do not exist, the first is {missing[0]}")
    return cases


def _describe_items(items: Sequence[dict[str, Any]], description: dict[str, Any], task: str) -> list[Case]:
    """Cases from the items of a listing, with what it says of all of them."""
    common: dict[str, Any] = {"task": task, "modality": read_modality(description)}
    if "labels" in description:
        common["classes"] = sorted(int(value) for value in description["labels"])
    extra = {key: value for key, value in common.items() if value is not None}
    return [
        {"image": item["image"], "label": item["label"], "case": case_name(item["image"]), **extra}
        | ({"patient": item["patient"]} if "patient" in item else {})
        for item in items
    ]


def labeled_cases(
    dataset_dir: Folders | None,
    output_dir: str | Path,
    *,
    spatial_dims: int = 3,
    tasks: Sequence[str] = PHANTOM_TASKS,
    cases_per_task: int = 12,
    seed: int = 0,
) -> list[Case]:
    """Returns the labeled cases of one or several data sets, or of phantoms made on the spot.

    Args:
        dataset_dir: a Decathlon folder or a list of them, each one task; ``None`` or empty for phantoms.
        output_dir: phantoms are written below ``output_dir/phantoms``.
        spatial_dims: 2 or 3, for phantoms.
        tasks: names of the phantoms' tasks.
        cases_per_task: number of phantoms of each task.
        seed: of the phantoms.

    Raises:
        MissingDataError: when a data set is missing or empty.
    """
    if dataset_dir:
        folders = [dataset_dir] if isinstance(dataset_dir, str) else list(dataset_dir)
        return [case for folder in folders for case in decathlon_cases(folder)]
    root = Path(output_dir) / "phantoms"
    logger.info("no dataset_dir given: using %d phantom scans of each of %s in %s", cases_per_task, list(tasks), root)
    made = [phantom_dataset(root, task, cases_per_task, spatial_dims=spatial_dims, seed=seed) for task in tasks]
    return [case | {"phantom": True} for folder in made for case in decathlon_cases(folder)]


def split_cases(
    cases: Sequence[Case], val_fraction: float, seed: int, *, test_fraction: float = 0.0, split_file: str | None = None
) -> dict[str, list[Case]]:
    """Splits cases into ``train``, ``val`` and ``test``, task by task and by patient, reproducibly.

    Args:
        cases: labeled cases; those that share a ``patient`` stay together, a case without one is its own patient.
        val_fraction: share of the patients of every task that go to ``val``, at least one of each; in (0, 1).
        seed: of the draw.
        test_fraction: share of the patients of every task that training never sees, in [0, 1).
        split_file: take the split of this file in place of a draw, see :func:`select_cases`.

    Raises:
        ConfigError: when the fractions leave nothing to train on.
        NotEnoughCasesError: when a task has too few patients for its parts.
    """
    if split_file:
        return {part: select_cases(cases, split_file, part) for part in ("train", "val")}
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} must be positive, below 1 in sum"
        )
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for task in sorted({str(case.get("task", "")) for case in cases}):
        members = [case for case in cases if str(case.get("task", "")) == task]
        patients = sorted({_patient(case) for case in members})
        num_test = round(test_fraction * len(patients))
        num_val = max(1, round(val_fraction * len(patients)))
        if num_test + num_val >= len(patients):
            raise NotEnoughCasesError(
                f"data set {task!r} has {len(patients)} patient(s), of which {num_test} are for test and {num_val} for "
                "validation: none is left to train on; add cases to dataset_dir"
            )
        drawn = np.random.default_rng(seed).permutation(patients).tolist()
        part_of = dict.fromkeys(drawn, "train")
        part_of |= dict.fromkeys(drawn[:num_test], "test") | dict.fromkeys(drawn[num_test : num_test + num_val], "val")
        for case in members:
            parts[part_of[_patient(case)]].append(case)
    return parts


def select_cases(cases: Sequence[Case], split_file: str | Path | None, part: str) -> list[Case]:
    """Returns the cases that a split file names, or all cases without one.

    Args:
        cases: labeled cases.
        split_file: ``split.json`` of a training run: part -> task -> names of cases.
        part: ``train``, ``val`` or ``test``.

    Raises:
        MissingDataError: when the file does not exist or names none of the cases.
    """
    if not split_file:
        return list(cases)
    if not Path(split_file).is_file():
        raise MissingDataError(f"split_file {split_file} does not exist; give the split.json of a training run")
    try:
        named = json.loads(Path(split_file).read_text(encoding="utf-8"))[part]
        chosen = [case for case in cases if case["case"] in named.get(str(case.get("task", "")), ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingDataError(
            f"split_file {split_file} has no part {part!r} of data sets and cases; give a training run's split.json"
        ) from error
    if not chosen:
        raise MissingDataError(f"{split_file} names none of the {len(cases)} cases of dataset_dir in its part {part!r}")
    return chosen


def training_cases(
    dataset_dir: Folders | None, output_dir: str, *, spatial_dims: int = 3, seed: int = 0, split_file: str | None = None
) -> list[Case]:
    """Returns the cases that a run trained on: those its split file names, or all of ``dataset_dir`` without one.

    Args and errors are those of :func:`labeled_cases` and :func:`select_cases`.
    """
    cases = labeled_cases(dataset_dir, output_dir, spatial_dims=spatial_dims, seed=seed)
    return select_cases(cases, split_file, "train")


def write_split(parts: dict[str, Sequence[Case]], path: str | Path) -> None:
    """Writes which cases a run trains, validates and shall be tested on: part -> task -> names of cases."""
    named: dict[str, dict[str, list[str]]] = {part: {} for part in parts}
    for part, cases in parts.items():
        for case in cases:
            named[part].setdefault(str(case.get("task", "")), []).append(
                str(case.get("case", case_name(case["image"])))
            )
    write_json(named, path)


def weights_folder(cases: Sequence[Case], model_dir: str, output_dir: str) -> str:
    """Returns where a training run writes its weights and bank.

    Args:
        cases: what the run trains on.
        model_dir: for given data.
        output_dir: for phantoms, ``output_dir/models``, so that shipped weights stay untouched.
    """
    return str(Path(output_dir) / "models") if cases and all(case.get("phantom") for case in cases) else model_dir


def _patient(case: Case) -> str:
    return str(case.get("patient", case["image"]))
