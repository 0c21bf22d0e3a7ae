"""Splits cases by patient into training, validation and test; writes the split and reads it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDataError, NotEnoughCasesError
from ..phantoms.volumes import PHANTOM_TASKS
from ..runtime.files import write_json
from .cases import Case, Folders, case_name, labeled_cases, weights_folder

logger = logging.getLogger(__name__)

SHARED = ("patient", "region")
"""What cases of a data set may have in common, so that no split tears them apart."""


def shared_names(case: Mapping[str, Any]) -> dict[str, str]:
    """Returns what a case may have in common with others, by its key of :data:`SHARED`, as far as the case tells it."""
    # A patient may have the number 0.
    return {key: str(case[key]) for key in SHARED if case.get(key) not in (None, "")}


def patient_of(case: Mapping[str, Any], *, alone: str = "image") -> str:
    """Returns what tells the patients of one data set apart: the region of a case without one, or the case itself.

    Args:
        case: Case, or what is known of it.
        alone: Key of what stands for a case without either. Default ``image``.
    """
    return next(iter(shared_names(case).values()), None) or str(case[alone])


def without_patients(cases: Sequence[Case], held_out: Sequence[Case], *, what: str) -> list[Case]:
    """Returns the cases that share no file with those held out, nor the patient, whatever folder they lie in.

    The log says how many do. Regions count where one of both listings tells no patient: two patients may have regions
    of one name.

    Args:
        cases: Cases, perhaps of other data sets.
        held_out: Cases of validation and test.
        what: What the cases are called in the log.
    """
    every = {name for case in held_out for name in shared_names(case).items()}
    deciding = {next(iter(shared_names(case).items()), None) for case in held_out}

    def is_held_out(case: Case) -> bool:
        names = list(shared_names(case).items())
        return not deciding.isdisjoint(names) or not every.isdisjoint(names[:1])

    kept = [case for case in except_files(cases, held_out) if not is_held_out(case)]
    if len(kept) < len(cases):
        logger.info(
            "%d of %d %s are left out: their patients are for validation or test",
            len(cases) - len(kept), len(cases), what,
        )  # fmt: skip
    return kept


def except_files(cases: Sequence[Case], others: Iterable[Case]) -> list[Case]:
    """Returns the cases whose image is not that of another case; DICOM series are told apart by their files."""
    taken = {_files(case) for case in others}
    return [case for case in cases if _files(case) not in taken]


def _files(case: Case) -> tuple[str, ...]:
    """The files of a case's image, links followed."""
    image = case["image"]
    return tuple(sorted(str(Path(file).resolve()) for file in ([image] if isinstance(image, str) else image)))


def split_cases(
    cases: Sequence[Case],
    val_fraction: float,
    seed: int,
    *,
    test_fraction: float = 0.0,
    split_file: str | None = None,
    num_folds: int = 0,
    fold: int = 0,
) -> dict[str, list[Case]]:
    """Splits cases into ``train``, ``val`` and ``test``, task by task and by patient, reproducibly.

    Args:
        cases: Labeled cases. Those that share a ``patient`` stay together, without one those that share a ``region``; a
            case without either stands for itself.
        val_fraction: Share of the patients of every task that go to ``val``, in [0, 1); at least one patient each.
        seed: Seed of the draw.
        test_fraction: Share of the patients of every task that training never sees, in [0, 1). 0 by default.
        split_file: Path of a file whose split is taken in place of a draw, see :func:`select_cases`. ``None``, the
            default, for a draw.
        num_folds: Number of folds of a cross-validation, at least 2, see :func:`fold_of_patients`. 0, the default, for
            none.
        fold: Number of the fold that is the ``test`` part, from 0 to ``num_folds - 1``. 0 by default.

    Raises:
        ConfigError: When the fractions leave nothing to train on.
        NotEnoughCasesError: When a task has too few patients for its parts.
    """
    if split_file:
        return {part: select_cases(cases, split_file, part) for part in ("train", "val")}
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} must be at least 0, and below 1 in sum"
        )
    if num_folds and (num_folds < 2 or not 0 <= fold < num_folds or test_fraction):
        raise ConfigError(
            f"fold {fold} of num_folds {num_folds} with test_fraction {test_fraction}: accepted are at least 2 folds, "
            "counted from 0, and no test_fraction, since the fold is the test part"
        )
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for task in sorted({str(case.get("task", "")) for case in cases}):
        members = [case for case in cases if str(case.get("task", "")) == task]
        patients = sorted({patient_of(case) for case in members})
        held_out = [name for name, number in fold_of_patients(members, num_folds).items() if number == fold]
        num_test = len(held_out) or round(test_fraction * len(patients))
        num_val = max(1, round(val_fraction * len(patients)))
        if num_test + num_val >= len(patients):
            raise NotEnoughCasesError(
                f"data set {task!r} has {len(patients)} patient(s), of which {num_test} are for test and {num_val} for "
                "validation: none is left to train on; add cases to dataset_dir"
            )
        drawn = np.random.default_rng(seed).permutation(patients).tolist()
        drawn = held_out + [name for name in drawn if name not in held_out]
        part_of = dict.fromkeys(drawn, "train")
        part_of |= dict.fromkeys(drawn[:num_test], "test") | dict.fromkeys(drawn[num_test : num_test + num_val], "val")
        for case in members:
            parts[part_of[patient_of(case)]].append(case)
    return parts


def fold_of_patients(cases: Sequence[Case], num_folds: int) -> dict[str, int]:
    """Returns the fold of every patient of a cross-validation, so that folds hold about equally many cases.

    It depends on the cases alone, so that runs with other seeds are tested on the same patients.

    Args:
        cases: Cases of one data set.
        num_folds: Number of folds; 0 gives none.

    Raises:
        NotEnoughCasesError: When there are fewer patients than folds.
    """
    names = [patient_of(case) for case in cases]
    sizes = {name: names.count(name) for name in sorted(set(names))}
    if num_folds and len(sizes) < num_folds:
        raise NotEnoughCasesError(f"{len(sizes)} patient(s) cannot make {num_folds} folds; lower num_folds")
    loads = [0] * num_folds
    folds: dict[str, int] = {}
    # The largest first, each to the fold that holds least.
    for name in sorted(sizes, key=lambda name: -sizes[name]) if num_folds else ():
        folds[name] = loads.index(min(loads))
        loads[folds[name]] += sizes[name]
    return folds


def select_cases(
    cases: Sequence[Case], split_file: str | Path | None, part: str, *, required: bool = True
) -> list[Case]:
    """Returns the cases that a split file names, or all cases without one.

    Args:
        cases: Labeled cases.
        split_file: Path of the ``split.json`` of a training run: part -> task -> names of cases. ``None`` or empty for
            all cases.
        part: Name of the part: ``train``, ``val``, ``test`` or ``unlabeled``.
        required: Whether the part must name a case. True by default.

    Raises:
        MissingDataError: When the file does not exist or names none of the cases.
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
    if required and not chosen:
        ways = "; give --split_part val, or train with --test_fraction 0.2" if part == "test" else ""
        raise MissingDataError(
            f"{split_file} names none of the {len(cases)} cases of dataset_dir in its part {part!r}{ways}"
        )
    return chosen


def training_cases(
    dataset_dir: Folders | None, output_dir: str, *, spatial_dims: int = 3, seed: int = 0, split_file: str | None = None
) -> list[Case]:
    """Returns the cases that a run trained on: those its split file names, or all of ``dataset_dir`` without one.

    Args and errors are those of :func:`labeled_cases` and :func:`select_cases`.
    """
    cases = labeled_cases(dataset_dir, output_dir, spatial_dims=spatial_dims, seed=seed)
    return select_cases(cases, split_file, "train")


def name_cases(parts: Mapping[str, Sequence[Case]]) -> dict[str, dict[str, list[str]]]:
    """Returns part -> task -> names of cases, each once; those of slices are named after their volumes."""
    named: dict[str, dict[str, dict[str, None]]] = {part: {} for part in parts}
    for part, cases in parts.items():
        for case in cases:
            name = case.get("volume") or case.get("case", case_name(case["image"]))
            named[part].setdefault(str(case.get("task", "")), {})[str(name)] = None
    return {part: {task: list(names) for task, names in tasks.items()} for part, tasks in named.items()}


def write_split(parts: Mapping[str, Sequence[Case]], path: str | Path) -> None:
    """Writes which cases a run trains on, validates on and shall be tested on: part -> task -> names of cases."""
    write_json(name_cases(parts), path)


class CaseSplit:
    """The parts of a run's data; nothing is read or made before a part is asked for.

    So a run whose lists of cases are set from outside (MONAI Label, federated clients) makes no phantoms.

    Args:
        dataset_dir: Folder or folders of the data, see :func:`labeled_cases`.
        output_dir: Folder of the results, see :func:`labeled_cases`.
        val_fraction: Share of the patients that are for validation, see :func:`split_cases`.
        test_fraction: Share of the patients that are for the test, see :func:`split_cases`. 0 by default.
        split_file: Path of a split to take in place of a draw, see :func:`split_cases`. ``None`` by default.
        seed: Seed of the draw and of phantoms. 0 by default.
        spatial_dims: Number of axes of phantoms, 2 or 3. 3 by default.
        model_dir: Folder that weights of training on given data go to, see :meth:`save_dir`. Default ``output_dir``.
        phantom_cases: Number of phantoms of each task. 12 by default.
        phantom_tasks: Names of the phantoms' tasks; ``PHANTOM_TASKS`` by default.
        num_folds: Number of folds of a cross-validation, see :func:`split_cases`. 0, the default, for none.
        fold: Number of the fold that is tested on, see :func:`split_cases`. 0 by default.
    """

    def __init__(
        self,
        dataset_dir: Folders | None,
        output_dir: str,
        *,
        val_fraction: float,
        test_fraction: float = 0.0,
        split_file: str | None = None,
        seed: int = 0,
        spatial_dims: int = 3,
        model_dir: str | None = None,
        phantom_cases: int = 12,
        phantom_tasks: Sequence[str] = PHANTOM_TASKS,
        num_folds: int = 0,
        fold: int = 0,
    ) -> None:
        self._source: dict[str, Any] = {"dataset_dir": dataset_dir, "output_dir": output_dir, "seed": seed}
        self._source |= {"spatial_dims": spatial_dims, "phantom_cases": phantom_cases, "phantom_tasks": phantom_tasks}
        self._model_dir = model_dir or output_dir
        self._draw: dict[str, Any] = {"val_fraction": val_fraction, "seed": seed, "test_fraction": test_fraction}
        self._draw |= {"split_file": split_file, "num_folds": num_folds, "fold": fold}

    def save_dir(self, cases: Sequence[Case]) -> str:
        """Returns the folder that weights of these training cases go to, see :func:`weights_folder`."""
        return weights_folder(cases, str(self._model_dir), str(self._source["output_dir"]))

    @cached_property
    def cases(self) -> list[Case]:
        """All labeled cases, listed or made when first asked for."""
        return labeled_cases(**self._source)

    @cached_property
    def parts(self) -> dict[str, list[Case]]:
        """All parts, drawn when first asked for."""
        return split_cases(self.cases, **self._draw)

    @property
    def drawn(self) -> bool:
        """Whether a part was asked for."""
        return "parts" in self.__dict__

    def part(self, name: str) -> list[Case]:
        """Returns the cases of ``train``, ``val`` or ``test``."""
        return self.parts.get(name, [])

    def held_out(self) -> list[Case]:
        """Returns all cases that are not trained on; none where the lists of cases are set from outside."""
        if not self.drawn:
            return []
        trained = {(str(case.get("task", "")), str(case["image"])) for case in self.part("train")}
        return [case for case in self.cases if (str(case.get("task", "")), str(case["image"])) not in trained]
