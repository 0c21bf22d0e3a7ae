"""Warns of an evaluation on cases that the weights were trained on, which the split beside the weights tells."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import MissingDataError
from ..runtime.model_settings import SPLIT_FILE
from .cases import Case

logger = logging.getLogger(__name__)

Names = Mapping[str, Mapping[str, Sequence[str]]]


def split_of_weights(model_dir: str | Path) -> Path | None:
    """Returns the file that tells the cases of the training of weights; ``None`` where there is none.

    Args:
        model_dir: Folder of the weights. Of those that a bundle ships, the file is in its ``docs``.
    """
    folder = Path(model_dir)
    places = (folder / SPLIT_FILE, folder.resolve().parent / "docs" / SPLIT_FILE)
    return next((place for place in places if place.is_file()), None)


def training_case_count(cases: Sequence[Case], names: Names, *, validation: bool = True) -> int:
    """Returns how many cases a training has used; phantoms, which are made anew, are none of them.

    Args:
        cases: Cases, each with ``task`` and ``case``.
        names: Split of the training: part -> data set -> names of cases.
        validation: Whether cases that the weights were chosen by count as well. Default true.
    """
    parts = ("train", "unlabeled", *(("val",) if validation else ()))
    used = {(task, name) for part in parts for task, listed in names.get(part, {}).items() for name in listed}
    return sum((str(case.get("task", "")), case["case"]) in used for case in cases if not case.get("phantom"))


def warn_of_training_cases(cases: Sequence[Case], model_dir: str | Path, *, asked: str | None = None) -> None:
    """Logs a warning where cases of an evaluation were used in the training of the weights, and what to do.

    Args:
        cases: In-distribution cases of the evaluation.
        model_dir: Folder of the weights.
        asked: Part of a split file that was asked for; of validation cases, whoever asks for them knows. ``None``, the
            default, where there is no split file.

    Raises:
        MissingDataError: When the split beside the weights cannot be read.
    """
    path = split_of_weights(model_dir)
    if path is None:
        return
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        count = training_case_count(cases, names, validation=asked is None)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MissingDataError(f"{path} is no split of a training ({error}); copy the weights' folder again") from error
    if not count:
        return
    tested = any(names.get("test", {}).values())
    way = (
        f"--split_file {path} takes its test part alone" if tested else "train with --test_fraction 0.2 to keep others"
    )
    logger.warning(
        "%d of %d scans evaluated were used in the training of these weights, so figures are too good: %s",
        count, len(cases), way,
    )  # fmt: skip
