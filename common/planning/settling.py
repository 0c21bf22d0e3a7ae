"""Chooses all settings of a bundle's training from the measures of its data, those that are given aside."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..data.cases import Case, decathlon_cases, name_folders
from ..errors import ConfigError
from ..runtime.digests import settings_digest
from ..runtime.model_settings import NETWORK, PLAN
from ..runtime.nearest import did_you_mean
from ..runtime.options import has_option
from .choices import (
    Choice,
    Room,
    apply_given,
    choose_batch,
    choose_classes,
    choose_grid,
    choose_intensities,
    choose_labels,
    choose_picture_window,
    is_sliced,
    room_of,
)
from .fingerprint import Fingerprint
from .length import (
    Budget,
    case_seconds,
    case_windows,
    choose_length,
    choose_quality,
    choose_validation,
    share_out,
)
from .timing import memory_of, seconds_per_step

SLICES = "slices.json"

EPOCHS = ("max_epochs", "samples_per_epoch")
"""Settings that say how long a training is, if ``iterations`` does not; a plan then leaves length and rates alone."""

REQUEST = "plan_request"
"""Key of a plan's file that tells what the plan was made for, see :meth:`Request.digest`."""


@dataclass(frozen=True)
class Request:
    """What a plan is made for.

    Args:
        dataset: Folder in the layout of the Medical Segmentation Decathlon, or a list of them.
        root: Folder of the bundle.
        config: Content of its ``train.json`` and of what is laid over it, with plain values.
        minutes: Time of the training on this machine, in minutes, above 0.
        given: Settings that are already decided.
        device: Device of the training.
    """

    dataset: str | Sequence[str]
    root: Path
    config: Mapping[str, Any]
    minutes: float
    given: Mapping[str, Any]
    device: torch.device

    def check(self) -> None:
        """Makes sure that the time is one, and that there is no unknown setting among those given.

        Raises:
            ConfigError: Naming what is wrong.
        """
        if not isinstance(self.minutes, int | float) or not self.minutes > 0:
            raise ConfigError(f"minutes is {self.minutes!r}; accepted are numbers above 0")
        # An overlay's network may have further arguments.
        config = dict(self.config) | self.overlay()
        for name in self.given:
            if not has_option(config, name):
                hint = did_you_mean(name, map(str, config), before="--")
                raise ConfigError(f"unknown option --{name}: train.json of {self.root.name} has no such key{hint}")

    @cached_property
    def cases(self) -> dict[str, list[Case]]:
        """Name of each data set -> its labeled cases, listed when first asked for.

        Raises:
            MissingDataError: When there is no such data set.
        """
        return {task: decathlon_cases(folder) for folder, task in name_folders(self.dataset)}

    def digest(self) -> str:
        """Returns what tells this request from others, the number of cases included.

        Raises:
            MissingDataError: When there is no such data set.
        """
        sizes = [(task, len(cases)) for task, cases in self.cases.items()]
        return settings_digest([sizes, self.minutes, dict(self.given), self.root.name])[:12]

    def overlay(self) -> dict[str, Any]:
        """Returns what lets the bundle see slice by slice, to be laid over its config; empty where it has none."""
        path = self.root / "configs" / SLICES
        return dict(ConfigParser.load_config_file(path)) if path.is_file() else {}


def choose_settings(request: Request, data: Fingerprint, task: str) -> tuple[dict[str, Any], list[Choice]]:
    """Returns the content of a plan, to be laid over ``train.json``, and its choices.

    Args:
        request: What the plan is made for, which has been checked.
        data: Measures of the data.
        task: Name of the data set.

    Raises:
        ConfigError: When the data have another number of axes than the bundle.
    """
    config, given = dict(request.config), request.given
    dims = len(data.size)
    if dims != config["spatial_dims"]:
        raise ConfigError(
            f"the images have {dims} axes, but {request.root.name} is for {config['spatial_dims']}; give another bundle"
            + (", or cut the volumes by python -m common slices" if dims == 3 else "")
        )
    overlay = request.overlay() if dims == 3 and is_sliced(data) and NETWORK not in given else {}
    room = room_of(memory_of(request.device), cuda=request.device.type == "cuda")
    choices = _data_choices(config, overlay, data, task, room)
    settled = config | overlay | _values(apply_given(choices, given))
    choices += [choose_batch(settled["roi_size"], pictures=dims == 2, room=room)]
    settled |= _values(apply_given(choices, given))
    choices += _time_choices(request, data, settled)
    choices = apply_given([choice for choice in choices if choice.setting in config], given)
    rows = [{"setting": c.setting, "value": c.value, "why": c.why} for c in choices]
    return overlay | _values(choices) | {"planned": False, PLAN: rows}, choices


def _values(choices: Sequence[Choice]) -> dict[str, Any]:
    """The settings of a plan; the network is that of the overlay, or given."""
    return {choice.setting: choice.value for choice in choices if choice.setting != NETWORK}


def _data_choices(
    config: Mapping[str, Any], overlay: Mapping[str, Any], data: Fingerprint, task: str, room: Room
) -> list[Choice]:
    """Classes, intensities, network and window."""
    divisor = overlay.get("divisor", config["divisor"])
    dims = len(data.size)
    divisors = divisor if isinstance(divisor, list) else [divisor] * dims
    sigmoid = bool(config["loss"].get("sigmoid"))
    choices = choose_classes(data, sigmoid=sigmoid, task=task) + choose_intensities(data) + choose_labels(config)
    if dims == 2:
        return choices + choose_picture_window(data, divisors, room, resized=_resizes(config))
    if overlay:
        step, plane = data.spacing[2], max(data.spacing[:2])
        why = (
            f"slices lie {step:.3g} mm apart, {step / plane:.1f} times the spacing in the plane: 2-D kernels ({SLICES})"
        )
    else:
        why = "slices lie close enough: 3-D kernels"
    network = overlay.get(NETWORK, config[NETWORK])["_target_"].rsplit(".", 1)[-1]
    return [*choices, Choice(NETWORK, network, why), *choose_grid(data, divisors, room)]


def _time_choices(request: Request, data: Fingerprint, settled: Mapping[str, Any]) -> list[Choice]:
    """Steps, rates, validations and what is measured at the end; none where the length is given in epochs."""
    given = request.given
    if "iterations" not in given and any(name in given for name in EPOCHS):
        return []
    pretrained = bool(settled.get("pretrained")) and "pretrain_iterations" in settled
    # Either comes before the training itself, and takes as long.
    trainings = 2 if pretrained or "baseline_dir" in settled else 1
    steps, resized, batch_size = given.get("iterations"), _resizes(request.config), settled["batch_size"]
    windows = case_windows(data, settled, resized=resized)
    choices: list[Choice] = []
    budget, seconds = Budget(request.minutes), 0.0
    if steps is None:
        seconds = _measure(request.root, settled, request.device)
        each = case_seconds(windows, seconds, batch_size)
        choices = choose_quality(request.minutes, each, data, settled)
        settled = dict(settled) | _values(apply_given(choices, given))
        budget = share_out(request.minutes, each, data, settled, trainings=trainings)
    length = {"steps": steps, "pretrained": pretrained, "batch_size": batch_size, "case_windows": windows}
    told = [budget.choice()] if steps is None else []
    choices = [*told, *choose_length(budget, seconds, **length), *choices]
    settled = dict(settled) | _values(apply_given(choices, given))
    return choices + choose_validation(data, settled, resized=resized)


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
    with torch.random.fork_rng():
        network = parser.get_parsed_content(NETWORK)
        seconds = seconds_per_step(network, config["batch_size"], config["in_channels"], config["roi_size"], device)
    # Images without labels pass through the networks as well.
    return seconds * (2.0 if "unlabeled_dir" in config else 1.0)
