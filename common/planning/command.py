"""Plans a training of a bundle on a data set, as a config that is laid over ``train.json``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data.cases import decathlon_cases, name_folders
from ..errors import ConfigError
from ..runtime.bundle_folders import find_bundle
from ..runtime.files import write_atomically
from ..runtime.json_format import format_json
from ..runtime.model_settings import PLAN
from ..runtime.options import has_option
from ..runtime.tables import table_lines
from .choices import (
    Choice,
    Room,
    apply_given,
    choose_batch,
    choose_classes,
    choose_grid,
    choose_intensities,
    choose_length,
    choose_picture_window,
    choose_validation,
    is_sliced,
    room_of,
)
from .fingerprint import Fingerprint, measure_cases
from .timing import memory_of, seconds_per_step

logger = logging.getLogger(__name__)

SLICES = "slices.json"

SHORT = 300
"""Steps below which hardly any network has learned much."""


def plan_training(
    dataset: str | Sequence[str],
    bundle: str | None = None,
    output: str = "plan.json",
    minutes: float = 20.0,
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
        **given: Settings of ``train.json`` that are already decided, which the plan keeps.

    Raises:
        MissingDataError: When there is no such data set or bundle.
        ConfigError: When the plan does not fit the bundle, or a setting does not exist.
        ImageError: When an image cannot be read.
        OutputError: When the plan cannot be written.
    """
    root = find_bundle(bundle, bundles)
    write_plan(dataset, root, str(output), minutes, given)
    folders = [str(folder) for folder, _ in name_folders(dataset)]
    data = folders[0] if len(folders) == 1 else f'"{folders}"'
    which = "" if bundle is None else f" --bundle {root}"
    logger.info(
        "%s written; plan and train in one with: trustseg train %s -o my_run --minutes %g%s",
        output,
        data,
        minutes,
        which,
    )


def write_plan(
    dataset: str | Sequence[str], root: Path, output: str | Path, minutes: float, given: Mapping[str, Any]
) -> None:
    """Plans a training of a bundle, logs the choices as a table, and writes the file to lay over ``train.json``.

    Args:
        dataset: Folder in the layout of the Medical Segmentation Decathlon, or a list of them.
        root: Folder of the bundle.
        output: File that the plan is written to.
        minutes: Time of the training on this machine, in minutes, above 0.
        given: Settings that are already decided.

    Raises:
        MissingDataError: When there is no such data set.
        ConfigError: When the plan does not fit the bundle, or a setting does not exist.
        ImageError: When an image cannot be read.
        OutputError: When the plan cannot be written.
    """
    if not isinstance(minutes, int | float) or not minutes > 0:
        raise ConfigError(f"minutes is {minutes!r}; accepted are numbers above 0")
    folders = name_folders(dataset)
    cases = [case | {"task": task} for folder, task in folders for case in decathlon_cases(folder)]
    content, choices = choose_settings(root, measure_cases(cases), folders[0][1], minutes, given)
    for line in choice_lines(choices):
        logger.info("%s", line)
    with write_atomically(output) as temporary:
        temporary.write_text(format_json(content) + "\n", encoding="utf-8")
    if content.get("iterations", SHORT) < SHORT:
        logger.warning("%d steps are few: raise minutes, or train on a faster machine", content["iterations"])


def choose_settings(
    root: Path, data: Fingerprint, task: str, minutes: float, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Choice]]:
    """Returns the content of a plan, to be laid over ``train.json``, and its choices.

    Args:
        root: Folder of the bundle.
        data: Measures of the data.
        task: Name of the data set.
        minutes: Time of the training, in minutes.
        given: Settings that are already decided.

    Raises:
        ConfigError: When the data have another number of axes than the bundle, or a setting does not exist.
    """
    folder = root / "configs"
    config = ConfigParser.load_config_file(folder / "train.json")
    dims = len(data.size)
    if dims != config["spatial_dims"]:
        raise ConfigError(
            f"the images have {dims} axes, but {root.name} is for {config['spatial_dims']}; give another bundle"
        )
    overlay: dict[str, Any] = {}
    if dims == 3 and is_sliced(data) and (folder / SLICES).is_file():
        overlay = ConfigParser.load_config_file(folder / SLICES)
    unknown = [name for name in given if not has_option(config | overlay, name)]
    if unknown:
        raise ConfigError(f"unknown option --{unknown[0]}: train.json of {root.name} has no such key")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    room = room_of(memory_of(device), cuda=device.type == "cuda")
    choices = _network_choices(config, overlay, data, task, room)
    choices = [choice for choice in choices if choice.setting in config]
    settled = config | overlay | _values(apply_given(choices, given))
    choices += [choose_batch(settled["roi_size"], pictures=dims == 2, room=room)]
    settled |= _values(apply_given(choices, given))
    choices += choose_length(minutes, _measure(root, settled, device))
    settled |= _values(apply_given(choices, given))
    choices += choose_validation(data, settled, resized=_resizes(config))
    choices = apply_given(
        [choice for choice in choices if choice.setting in config or choice.setting == "network_def"], given
    )
    rows = [{"setting": c.setting, "value": c.value, "why": c.why} for c in choices]
    return overlay | _values(choices) | {PLAN: rows}, choices


def _values(choices: Sequence[Choice]) -> dict[str, Any]:
    """The settings of a plan; the network is that of the overlay."""
    return {choice.setting: choice.value for choice in choices if choice.setting != "network_def"}


def _network_choices(
    config: Mapping[str, Any], overlay: Mapping[str, Any], data: Fingerprint, task: str, room: Room
) -> list[Choice]:
    """Classes, intensities, network and window."""
    divisor = overlay.get("divisor", config["divisor"])
    dims = len(data.size)
    divisors = divisor if isinstance(divisor, list) else [divisor] * dims
    sigmoid = bool(config["loss"].get("sigmoid"))
    choices = choose_classes(data, sigmoid=sigmoid, task=task) + choose_intensities(data)
    if dims == 2:
        return choices + choose_picture_window(data, divisors, room, resized=_resizes(config))
    if overlay:
        step, plane = data.spacing[2], max(data.spacing[:2])
        why = (
            f"slices lie {step:.3g} mm apart, {step / plane:.1f} times the spacing in the plane: 2-D kernels ({SLICES})"
        )
    else:
        why = "slices lie close enough: 3-D kernels"
    network = overlay.get("network_def", config["network_def"])["_target_"].rsplit(".", 1)[-1]
    return [*choices, Choice("network_def", network, why), *choose_grid(data, divisors, room)]


def _resizes(config: Mapping[str, Any]) -> bool:
    """Whether the bundle resizes whole pictures to its window."""
    return "Resized" in str(config["image_transforms"])


def _measure(root: Path, config: Mapping[str, Any], device: torch.device) -> float:
    """Seconds of a step of the bundle's training."""
    if str(root) not in sys.path:
        # Code of a bundle lies beside its configs.
        sys.path.insert(0, str(root))
    parser = ConfigParser({key: value for key, value in config.items() if "#" not in key})
    parser.update({key: value for key, value in config.items() if "#" in key})
    network = parser.get_parsed_content("network_def")
    seconds = seconds_per_step(network, config["batch_size"], config["in_channels"], config["roi_size"], device)
    # Images without labels pass through the networks as well.
    return seconds * (2.0 if "unlabeled_dir" in config else 1.0)


def choice_lines(choices: Sequence[Choice]) -> list[str]:
    """Returns the lines of a table of choices.

    Args:
        choices: Choices of a plan.
    """
    return table_lines([("setting", "value", "why"), *((c.setting, str(c.value), c.why) for c in choices)])
