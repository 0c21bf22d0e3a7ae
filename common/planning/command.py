"""Plans a training of a bundle on a data set, as a config that is laid over ``train.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data.cases import name_folders
from ..runtime.bundle_folders import find_bundle
from ..runtime.files import write_atomically
from ..runtime.json_format import format_json
from ..runtime.model_settings import with_defaults
from ..runtime.next_command import command_line
from ..runtime.tables import table_lines
from ..runtime.training_end import MINUTES
from .choices import Choice
from .fingerprint import measure_cases
from .settling import REQUEST, Request, choose_settings

logger = logging.getLogger(__name__)

WIDEST = 40
"""Most characters of a value in the table of a plan; lists of many classes are longer."""

SHORT = 300
"""Steps below which hardly any network has learned much."""


def plan_training(
    dataset: str | Sequence[str],
    bundle: str | None = None,
    output: str = "plan.json",
    minutes: float = MINUTES,
    bundles: str | None = None,
    **given: Any,
) -> None:
    """Reads a data set, chooses the settings of a training, prints them with their reasons and writes them.

    The command ``train`` makes the same plan and trains by it. ``python -m monai.bundle run --config_file
    "['<bundle>/configs/train.json','plan.json']" --dataset_dir <dataset>`` trains by a plan that you have changed.

    Args:
        dataset: Folder in the layout of the Medical Segmentation Decathlon, or a list of them.
        bundle: Name of the bundle, or its folder. Default ``spectral_ood``; from an archive, the archive's own.
        output: File that the plan is written to, ``-o`` for short. Default ``plan.json``.
        minutes: Time of the training on this machine, in minutes, above 0. Default 20.
        bundles: Folder of the bundles. By default those that came with this software.
        **given: Further options are settings of ``train.json`` that are already decided, which the plan keeps.

    Example:
        trustseg plan data/A
        trustseg plan data/A -o plan.json -b double_mix -m 60 --batch_size 4

    Raises:
        MissingDataError: When there is no such data set or bundle.
        ConfigError: When the plan does not fit the bundle, or a setting does not exist.
        ImageError: When an image cannot be read.
        OutputError: When the plan cannot be written.
    """
    root = find_bundle(bundle, bundles)
    config = with_defaults(ConfigParser.load_config_file(root / "configs" / "train.json"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write_plan(str(output), Request(dataset, root, config, minutes, given, device))
    folders = [str(folder) for folder, _ in name_folders(dataset)]
    data = folders[0] if len(folders) == 1 else str(folders)
    line = command_line(root, "train", data, o="my_run", minutes=f"{minutes:g}", **given)
    logger.info("%s written; plan and train in one with: %s", output, line)


def write_plan(output: str | Path, request: Request) -> dict[str, Any]:
    """Plans a training of a bundle, logs the choices as a table, and writes the file to lay over ``train.json``.

    Args:
        output: File that the plan is written to.
        request: What the plan is made for.

    Returns:
        The content of the file.

    Raises:
        MissingDataError: When there is no such data set.
        ConfigError: When the plan does not fit the bundle, or a setting does not exist.
        ImageError: When an image cannot be read.
        OutputError: When the plan cannot be written.
    """
    request.check()
    cases = [case | {"task": task} for task, found in request.cases.items() for case in found]
    content, choices = choose_settings(request, measure_cases(cases), next(iter(request.cases)))
    content[REQUEST] = request.digest()
    for line in choice_lines(choices):
        logger.info("%s", line)
    with write_atomically(output) as temporary:
        temporary.write_text(format_json(content) + "\n", encoding="utf-8")
    steps = content.get("iterations") or SHORT
    if steps < SHORT:
        logger.warning("%d steps are few: raise minutes, or train on a faster machine", steps)
    return content


def choice_lines(choices: Sequence[Choice]) -> list[str]:
    """Returns the lines of a table of choices.

    Args:
        choices: Choices of a plan.
    """
    return table_lines([("setting", "value", "why"), *((c.setting, _short(c.value), c.why) for c in choices)])


def _short(value: Any) -> str:
    """A value as a table shows it; the plan's file has the whole of a long one."""
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
