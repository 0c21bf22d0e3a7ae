"""Keeps what decides over a training with its checkpoint: a run that goes on from it must not change it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Compose, Transform
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .digests import describe
from .distributed import unwrap, world_size

PLACES = frozenset(
    {
        # Where a run reads and writes what is its own.
        *("bundle_root", "output_dir", "model_dir", "save_dir"),
        *("baseline_dir", "candidates_dir", "pretrain_dir", "cache_dir", "landmarks_file"),
        # How it runs. The number of processes is compared.
        *("device", "amp", "distributed", "num_workers", "cache_rate", "sw_batch_size", "resume"),
        # What it measures on the way.
        *("balance_interval", "pseudo_quality_interval"),
    }
)
"""Top-level keys that say where and how a run is done, and change nothing in its result."""

MAY_CHANGE = PLACES | frozenset(
    {
        # Where data lie. Which cases there are is compared by their names.
        *("dataset_dir", "unlabeled_dir", "healthy_dir", "candidate_dir", "split_file"),
        # How settings were chosen, which are compared themselves.
        *("planned", "minutes"),
        # What is made of the weights afterwards.
        *("precision", "feature_layers", "per_voxel", "signature_form", "distance", "threshold_c", "false_alarm_rate"),
        *("quality_cases", "coverage", "save_patches", "min_component_size"),
    }
)
"""Top-level keys of a config that may be others when a training is resumed; all others must be as they were."""

LENGTH, ENDLESS = "max_epochs", ("decline", "plateau")
"""Key of the length of a training, and the setting with which nothing else follows from it."""

ABSENT = "not set"


class ComparedOnResume:
    """Marks objects whose public settings must be as they were when a training is resumed."""


_OBJECTS = frozenset({nn.Module, Optimizer, LRScheduler, Transform, ComparedOnResume})


def config_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides over a training, in JSON: values of keys, names of cases, number of processes.

    Args:
        config: Objects and values that the config parser has made so far, by their ids.
    """
    parts = _by_key(config)
    # Nested values follow from top-level ones or belong to the objects below them.
    plain = {key: value for key, value in parts.items() if "#" not in key and _is_plain(value)}
    settings = {key: describe(value, where=key) for key, value in plain.items()}
    cases = {key: [_case_name(case) for case in value] for key, value in parts.items() if _is_cases(value)}
    return settings | cases | {"number of processes": world_size()}


def object_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of losses, networks, optimizers, schedules and transforms, in JSON, before they are used.

    So what is changed below a top-level key, such as ``optimizer#weight_decay``, is seen as well.

    Args:
        config: Objects and values that the config parser has made so far, by their ids.

    Raises:
        ConfigError: Naming a setting that cannot be described, such as a lambda.
    """
    parts = {key: value for key, value in _by_key(config).items() if _has_settings(value)}
    # A network has several keys, with and without its wrapper.
    unique = {id(unwrap(value) if isinstance(value, nn.Module) else value): key for key, value in parts.items()}
    return {key: _object(parts[key], key) for key in unique.values() if not _is_known(parts[key], unique)}


def _has_settings(value: Any) -> bool:
    """Whether a value is of one of the kinds; ``isinstance`` would ask each of MONAI's hundreds of transforms."""
    return not _OBJECTS.isdisjoint(type(value).__mro__)


def _by_key(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change, by the keys that users write: MONAI's parser writes ``a::b`` for ``a#b``."""
    keys = {key: key.replace("::", "#") for key in config}
    name, value = ENDLESS
    may_change = MAY_CHANGE | ({LENGTH} if config.get(name) == value else set())
    return {keys[key]: value for key, value in config.items() if keys[key] not in may_change}


def _is_known(value: Any, unique: Mapping[int, str]) -> bool:
    """Whether an object is a sequence of transforms that are described one by one."""
    return isinstance(value, Compose) and all(id(part) in unique for part in value.transforms)


def _object(value: Any, key: str) -> Any:
    """Describes one object."""
    if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
        return describe_network(value)
    if isinstance(value, Optimizer):
        groups = [_without(group, "params") for group in value.param_groups]
        return describe(groups[0] if len(groups) == 1 else groups, where=key)
    scheduled = isinstance(value, LRScheduler | ComparedOnResume)
    return describe(_without(vars(value), "optimizer") if scheduled else value, where=key)


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Returns the layers of a network by name: their kinds, settings and hooks; not what they have learned.

    Args:
        network: Network, perhaps in a data-parallel wrapper.
    """
    return {name: _layer(part, name) for name, part in unwrap(network).named_modules()}


def first_difference(before: Any, now: Any, where: str = "", *, off_counts: bool = True) -> tuple[str, Any, Any] | None:
    """Returns the place and both values of the first setting that differs; ``None`` where all are the same.

    Args:
        before: Settings of a run, in JSON.
        now: Settings of another run, in JSON.
        where: Name of what they are settings of, with which the place begins; empty by default.
        off_counts: Whether a setting that is off, null or false, differs from one that is not there. Default true.

    Example:
        >>> first_difference({"loss": {"kind": "Dice", "settings": {"batch": True}}},
        ...     {"loss": {"kind": "Dice", "settings": {"batch": False}}})
        ('loss#batch', True, False)
    """
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = _pairs(before, now, where)
        return _first((pair for pair in pairs if off_counts or not _is_new_and_off(*pair[1:])), off_counts)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        places = ((f"{where}#{n}", *pair) for n, pair in enumerate(zip(before, now, strict=True)))
        found = _first(places, off_counts)
        # A short list is told as a whole.
        return found if found is None or _holds_parts(before) else (where, before, now)
    # In Python, true equals 1.
    same = before == now and isinstance(before, bool) == isinstance(now, bool)
    return None if same else (where, before, now)


def _first(pairs: Iterable[tuple[str, Any, Any]], off_counts: bool) -> tuple[str, Any, Any] | None:
    """The first difference of parts, given by their place and both values."""
    for place, old, new in pairs:
        found = first_difference(old, new, place, off_counts=off_counts)
        if found is not None:
            return found
    return None


def _is_new_and_off(before: Any, now: Any) -> bool:
    """Whether a setting was not there before, and is off."""
    return before == ABSENT and (now is None or now is False)


def short_text(setting: Any) -> str:
    """Returns a setting in JSON for a message, at most 80 characters."""
    text = setting if setting == ABSENT else json.dumps(setting)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _pairs(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, Any]]:
    """Place and both values of every key of two mappings, in the order of the first."""
    for key in [*before, *(key for key in now if key not in before)]:
        # An object's settings go by its own name.
        place = where if key == "settings" and "kind" in before else f"{where}#{key}" if where else key
        yield place, before.get(key, ABSENT), now.get(key, ABSENT)


def _holds_parts(values: list[Any]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


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
