"""What a training was made of, kept with its checkpoint, so that a run that goes on from it must be made of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Compose, Transform
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .digests import describe
from .distributed import unwrap, world_size

MAY_CHANGE = frozenset(
    {
        # Where things lie. Which cases there are is compared by their names.
        *("bundle_root", "dataset_dir", "unlabeled_dir", "healthy_dir", "candidate_dir", "split_file"),
        *("output_dir", "model_dir", "save_dir", "baseline_dir", "candidates_dir", "pretrain_dir", "cache_dir"),
        # How and how long it runs. The number of processes is compared.
        *("device", "amp", "distributed", "is_main", "num_workers", "cache_rate", "sw_batch_size", "max_epochs"),
        "resume",
        # What is made of the weights afterwards.
        *("precision", "feature_layers", "per_voxel", "distance", "threshold_c", "save_patches", "min_component_size"),
    }
)
"""Top-level keys of a config that may be others when a training is resumed; all others must be as they were."""

ABSENT = "not set"


def config_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides over a training, in JSON: values of keys, names of cases, number of processes.

    Args:
        config: id -> what the config parser has made of it so far.
    """
    # Nested values follow from top-level ones or belong to the objects below them.
    plain = {key: value for key, value in config.items() if "#" not in key and key not in MAY_CHANGE}
    settings = {key: describe(value, where=key) for key, value in plain.items() if _is_plain(value)}
    cases = {key: [_case_name(case) for case in value] for key, value in config.items() if _is_cases(value)}
    return settings | cases | {"number of processes": world_size()}


def object_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of losses, networks, optimizers, schedules and transforms, in JSON, before they are used.

    So what is changed below a top-level key, such as ``optimizer#weight_decay``, is seen as well.

    Args:
        config: id -> what the config parser has made of it so far.
    """
    described: dict[str, Any] = {}
    for key, value in config.items():
        if key in MAY_CHANGE or not isinstance(value, nn.Module | Optimizer | LRScheduler | Transform):
            continue
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            described[key] = describe_network(value)
        elif isinstance(value, Optimizer):
            groups = [_without(group, "params") for group in value.param_groups]
            described[key] = describe(groups[0] if len(groups) == 1 else groups, where=key)
        elif isinstance(value, LRScheduler):
            described[key] = describe(_without(value.__dict__, "optimizer"), where=key)
        elif not isinstance(value, Compose):
            described[key] = describe(value, where=key)
    return described


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Returns the layers of a network by name: their kinds, settings and hooks; not what they have learned.

    Args:
        network: perhaps in a data-parallel wrapper.
    """
    return {name: _layer(part, name) for name, part in unwrap(network).named_modules()}


def first_difference(before: Any, now: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Returns the place and both values of the first setting that differs; ``None`` where all are the same.

    Args:
        before: settings of a run, in JSON.
        now: settings of another.
        where: what they are settings of.

    Example:
        >>> first_difference({"loss": {"kind": "Dice", "settings": {"batch": True}}},
        ...     {"loss": {"kind": "Dice", "settings": {"batch": False}}})
        ('loss#batch', True, False)
    """
    if before == now and _text(before) == _text(now):
        return None
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = _pairs(before, now, where)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now) > 0 and _holds_parts(before):
        pairs = ((f"{where}#{n}", *pair) for n, pair in enumerate(zip(before, now, strict=True)))
    else:
        return where, before, now
    return next(found for place, *pair in pairs if (found := first_difference(*pair, place)))


def short_text(setting: Any) -> str:
    """Returns a setting in JSON for a message, at most 80 characters."""
    text = setting if setting == ABSENT else _text(setting)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _pairs(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, Any]]:
    """Place and both values of every key of two mappings, in the order of the first."""
    for key in [*before, *(key for key in now if key not in before)]:
        # An object's settings go by its own name.
        place = where if key == "settings" and "kind" in before else f"{where}#{key}" if where else key
        yield place, before.get(key, ABSENT), now.get(key, ABSENT)


def _holds_parts(values: list[Any]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def _text(described: Any) -> str:
    # In Python, true equals 1, and 1 equals 1.0.
    return json.dumps(described, sort_keys=True)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, text or flag, or a collection of these, but no list of cases."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return not _is_cases(value) and all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_cases(value: Any) -> bool:
    """Whether a value is a list of cases, which hold files or phantoms."""
    return isinstance(value, list) and bool(value) and all(isinstance(x, Mapping) and "image" in x for x in value)


def _case_name(case: Mapping[str, Any]) -> str:
    """Task and name of a case; its file's name where it has none."""
    image = case["image"][0] if isinstance(case["image"], list | tuple) else case["image"]
    name = case["case"] if "case" in case else Path(image).name
    return f"{case.get('task', '')}/{name}"


def _layer(module: nn.Module, name: str) -> dict[str, Any]:
    """Kind and settings of a layer. What differs between training and evaluation is none of them."""
    own = {key: value for key, value in _without(module.__dict__, "training").items() if _is_plain(value)}
    hooks = [describe(hook, where=f"a hook of {name or 'the network'}") for hook in module._forward_hooks.values()]
    return {"kind": type(module).__name__, "settings": own | {"layer": module.extra_repr(), "hooks": hooks}}


def _without(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Public settings beside one."""
    return {key: value for key, value in settings.items() if key != name and not key.startswith("_")}
