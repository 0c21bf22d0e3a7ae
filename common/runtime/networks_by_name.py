"""Builds a network from its name and plain arguments, as files of data tell them: nothing else can be called so."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError
from .run_settings import first_difference, short_text

SHARED = "scripts.common."
"""How configs name the shared package, wherever it lies."""

TRAINING_ONLY = ("dropout", "encoder_weights")
"""Arguments that trained weights do not depend on: those of the config hold."""

_PACKAGE = __name__.rsplit(".", 2)[0]
_MARKS = ("_target_", "_mode_")


class TrainedNetwork:
    """Builds the network that weights were trained with, in place of the one that a config names.

    Args:
        kept: Kind and arguments of the network, as :func:`build_network` takes them.
        path: File that holds them, beside the weights.
        defaults: Arguments of the config as its file has them; others a user has set. Default none.
    """

    def __init__(self, kept: Mapping[str, Any], path: Path, defaults: Mapping[str, Any] | None = None) -> None:
        self.kept, self.path, self.defaults = dict(kept), path, dict(defaults or {})

    def __call__(self, **arguments: Any) -> nn.Module:
        """Returns the network.

        Args:
            **arguments: Arguments of the config; only those of :data:`TRAINING_ONLY` change the network.

        Raises:
            ConfigError: When a user has set an argument to another value than the weights were trained with.
        """
        for name, value in arguments.items():
            if self._is_set(name, value):
                refuse_other(f"network_def#{name}", self.kept.get(name, "not set"), value, self.path.parent)
        changed = {name: arguments[name] for name in TRAINING_ONLY if name in arguments and name in self.kept}
        network: nn.Module = build_network(self.kept | changed, str(self.path))
        return network

    def _is_set(self, name: str, value: Any) -> bool:
        """Whether a user has set an argument; settings that it refers to are checked by their own names."""
        default = self.defaults.get(name, value)
        refers = isinstance(default, Mapping) or (isinstance(default, str) and default.startswith(("@", "$")))
        return name not in TRAINING_ONLY and not refers and value != default

    @staticmethod
    def needed(kept: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the weights depend on: all arguments but those of :data:`TRAINING_ONLY`."""
        return {name: value for name, value in kept.items() if name not in TRAINING_ONLY}


def is_plain(value: Any) -> bool:
    """Returns whether a value is a number, text or flag, or a collection of these, as JSON holds them.

    Args:
        value: Any value.
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def refuse_other(
    name: str, trained: Any, given: Any, folder: Path, *, advice: str = "leave it out, or train anew"
) -> None:
    """Makes sure that a setting is that of the training.

    Args:
        name: Name of the setting.
        trained: Value of the training.
        given: Value of now.
        folder: Folder of the weights.
        advice: What to do about it. Default to leave it out, or to train anew.

    Raises:
        ConfigError: When the two differ, with both.
    """
    found = first_difference(trained, json.loads(json.dumps(given, default=str)), name)
    if found:
        place, before, now = found
        raise ConfigError(
            f"{place} is {short_text(now)}, but the weights in {folder} were trained with {short_text(before)}; "
            f"{advice}"
        )


def build_network(kept: Mapping[str, Any], where: str) -> Any:
    """Returns a network, or with ``_mode_`` of ``callable`` what makes one.

    Args:
        kept: Name of its class under ``_target_``, or of a function of the package ``networks``; the other items are
            its arguments, of which some may be networks in turn.
        where: Name of the file that holds them, in messages.

    Raises:
        ConfigError: When the name is not of a network of MONAI or of the shared package, or arguments do not fit.
    """
    make = _find(str(kept["_target_"]), where)
    arguments = {
        name: build_network(value, where) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in kept.items()
        if name not in _MARKS
    }
    if kept.get("_mode_") == "callable":
        return partial(make, **arguments) if arguments else make
    try:
        return make(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{where} does not describe a network ({error}); copy the whole folder of the weights again"
        ) from error


def _find(name: str, where: str) -> Callable[..., Any]:
    """The class or function of that name, which must be of a network."""
    full = name if "." in name else f"monai.networks.nets.{name}"
    full = f"{_PACKAGE}.{full.removeprefix(SHARED)}" if full.startswith(SHARED) else full
    module, _, attribute = full.rpartition(".")
    found = None
    if module.startswith(("monai.networks.", f"{_PACKAGE}.")):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    is_network = inspect.isclass(found) and issubclass(found, nn.Module)
    is_factory = inspect.isfunction(found) and found.__module__.startswith(f"{_PACKAGE}.networks.")
    if found is None or not (is_network or is_factory):
        raise ConfigError(
            f"{where} names the network {name!r}, which is none of MONAI or of this collection; lay the config that "
            "names it over this one"
        )
    return found  # type: ignore[no-any-return]
