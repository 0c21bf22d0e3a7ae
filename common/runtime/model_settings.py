"""Keeps what a training decided about data and network beside its weights, for every later run to take as defaults."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle.config_item import ConfigItem

from ..errors import ConfigError
from .config_source import component_source, items_being_resolved
from .files import plain_json, write_atomically, write_json
from .json_format import format_json
from .networks_by_name import TrainedNetwork, is_plain, refuse_other
from .run_settings import short_text

SETTINGS_FILE = "model_settings.json"
"""Name of the file, beside the weights, of what their training decided."""

SPLIT_FILE = "split.json"
"""Name of the file, beside the weights, of the cases that they were trained, validated and shall be tested on."""

NEEDED = (
    *("spatial_dims", "in_channels", "out_channels", "norm", "residual"),
    *("modality", "hounsfield_window", "normalization", "percentiles", "percentile"),
    *("clear_border", "foreground_threshold", "spacing"),
)
"""Settings without which weights mean nothing: another value is refused."""

DEFAULTS = (
    *("roi_size", "divisor", "overlap", "precision", "feature_layers", "per_voxel", "signature_form", "distance"),
    *("foreground_labels", "phantom_tasks"),
)
"""Settings that are kept as well. The signature bank tells where those that it is bound to may not change."""

NETWORK, NAMES = "network_def", "class_names"

PLAN = "plan"
"""Key of the table of a plan that was laid over ``train.json``; ``plan.json`` beside the weights keeps it."""

_CALL = re.compile(
    r"\$@(?:model_settings|planner)\.(?:get\('[\w#:]+', (?P<default>.*)\)|network\((?P<target>'[\w.]+')\)|rows\(\))",
    re.DOTALL,
)


def with_defaults(config: Any) -> Any:
    """Returns a config with the values that hold without settings of weights and without a plan.

    Args:
        config: Config as its file holds it, or a part of one.

    Example:
        >>> with_defaults({"overlap": "$@model_settings.get('overlap', 0.25)", "seed": 0})
        {'overlap': 0.25, 'seed': 0}
    """
    if isinstance(config, Mapping):
        return {key: with_defaults(value) for key, value in config.items()}
    if isinstance(config, list):
        return [with_defaults(value) for value in config]
    found = _CALL.fullmatch(config) if isinstance(config, str) else None
    return config if found is None else literal_eval(found["default"] or found["target"] or "[]")


class ModelSettings:
    """Settings of weights, as defaults of a config: what a user sets takes the place of the call that asks here.

    Weights of older versions have none; the values of the config hold for them.

    Args:
        model_dir: Folder of the weights, which may hold ``model_settings.json``.
        config: What the config parser has made of every id so far, as the expression ``$__local_refs`` gives it.
            Default none.
        bundle_root: Folder of the bundle, whose ``train.json`` tells which arguments of the network a user has set.
            Default none.
    """

    def __init__(
        self, model_dir: str | Path, config: Mapping[str, Any] | None = None, *, bundle_root: str | Path | None = None
    ) -> None:
        self.path = Path(model_dir, SETTINGS_FILE)
        self.train_file = None if bundle_root is None else Path(bundle_root, "configs", "train.json")
        self.config: Mapping[str, Any] = {} if config is None else config
        self._items = items_being_resolved(config)

    @cached_property
    def stored(self) -> dict[str, Any]:
        """Settings of the weights by name; empty where there is no file of them.

        Raises:
            ConfigError: When the file holds anything else.
        """
        return read_settings(self.path) if self.path.is_file() else {}

    def get(self, name: str, default: Any) -> Any:
        """Returns a setting of the weights.

        Args:
            name: Name of the setting.
            default: Value for weights that do not have it.
        """
        return self.stored.get(name, default)

    @property
    def class_names(self) -> dict[str, str]:
        """Index of a class, as a text -> its name in the data of the training; empty where that is not known."""
        return dict(self.stored.get(NAMES, {}))

    def network(self, target: str) -> str | TrainedNetwork:
        """Returns what builds the network of the weights, for ``_target_`` of a network's block.

        Args:
            target: Name of the network that weights without settings have.

        Raises:
            ConfigError: When the weights are of a network that is neither MONAI's nor of the shared package.
        """
        kept = self.stored.get(NETWORK)
        return target if kept is None else TrainedNetwork(kept, self.path, self._default_arguments())

    def _default_arguments(self) -> dict[str, Any]:
        """The arguments of the network that the bundle's configs have."""
        if self.train_file is None or not self.train_file.is_file():
            return {}
        network = json.loads(self.train_file.read_text(encoding="utf-8")).get(NETWORK)
        return dict(network) if isinstance(network, dict) else {}

    def check(self) -> None:
        """Makes sure that nothing contradicts what the weights need.

        Raises:
            ConfigError: Naming the first setting that differs, with both values.
        """
        folder = self.path.parent
        for name in NEEDED:
            if name in self.stored and name in self.config:
                refuse_other(name, self.stored[name], self.config[name], folder)
        if NETWORK not in self.stored:
            return
        kept = TrainedNetwork.needed(self.stored[NETWORK])
        own = collect_network(self._items)
        if own is not None:
            refuse_other(NETWORK, kept, TrainedNetwork.needed(own), folder)


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the content of a file of settings.

    Args:
        path: Path of the file.

    Raises:
        ConfigError: When it cannot be read, or holds anything but known settings.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); copy the whole folder of the weights again") from error
    known = (*NEEDED, *DEFAULTS, NETWORK, NAMES)
    unknown = [key for key in content if key not in known] if isinstance(content, dict) else [type(content).__name__]
    if unknown:
        raise ConfigError(
            f"{path} holds {unknown[0]!r}, which is no setting of weights; accepted are {', '.join(known)}: copy the "
            "file again, or update this software"
        )
    return dict(content)


class SettingsWriter:
    """Writes what a training has decided about data and network, from the values that its config has come to.

    Args:
        save_dir: Folder of the weights.
        config: What the config parser has made of every id so far, as the expression ``$__local_refs`` gives it.
        class_names: Index of a class, as a text -> its name. Default none.
        plan: Choices of the plan that the training goes by, each with its reason. Default none, for those of a plan
            that is laid over the config.
    """

    def __init__(
        self,
        save_dir: str | Path,
        config: Mapping[str, Any],
        *,
        class_names: Mapping[str, str] | None = None,
        plan: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.path, self.config, self.class_names = Path(save_dir, SETTINGS_FILE), config, dict(class_names or {})
        # Part of the run -> data set -> names of cases, once a run has told them.
        self.case_names: Mapping[str, Mapping[str, Sequence[str]]] = {}
        self._items = items_being_resolved(config)
        self._plan = list(plan) or (self._items[PLAN].get_config() if PLAN in self._items else [])

    def collect(self) -> dict[str, Any]:
        """Returns the settings that the config has come to so far."""
        settings = {name: self.config[name] for name in (*NEEDED, *DEFAULTS) if name in self.config}
        network = collect_network(self._items)
        settings |= {} if network is None else {NETWORK: network}
        return settings | ({NAMES: self.class_names} if self.class_names else {})

    def write(self) -> None:
        """Writes the settings of new weights, and the names of the cases of their run.

        Raises:
            OutputError: When a file cannot be written.
        """
        self._write(self.collect())
        path = self.path.with_name(SPLIT_FILE)
        if self.case_names:
            write_json(self.case_names, path)
        else:
            # Of weights that are no more.
            path.unlink(missing_ok=True)

    def update(self) -> None:
        """Writes the settings of weights that stay: those that this run does not come to are kept.

        Raises:
            OutputError: When the file cannot be written.
        """
        self._write(self._before() | self.collect())

    def _before(self) -> dict[str, Any]:
        """The settings that are kept already."""
        return read_settings(self.path) if self.path.is_file() else {}

    def _write(self, settings: dict[str, Any]) -> None:
        contents = {self.path: settings}
        if self._plan:
            contents[self.path.with_name(f"{PLAN}.json")] = {PLAN: self._plan}
        for path, content in contents.items():
            with write_atomically(path) as temporary:
                temporary.write_text(format_json(plain_json(content)) + "\n", encoding="utf-8")

    def check(self) -> list[str]:
        """Returns a line for every setting in which this run differs from the training of the weights.

        Raises:
            ConfigError: When the weights mean nothing with one of them.
        """
        before = self._before()
        now = plain_json(self.collect())
        if NETWORK in before and NETWORK in now:
            before[NETWORK], now[NETWORK] = (TrainedNetwork.needed(each[NETWORK]) for each in (before, now))
        advice = "lay as_trained.json over train.json to take it from the weights"
        for name in (*NEEDED, NETWORK):
            if name in before and name in now:
                refuse_other(name, before[name], now[name], self.path.parent, advice=advice)
        changed = [name for name in DEFAULTS if name in before and name in now and before[name] != now[name]]
        return [f"{name} is {short_text(now[name])}, in training it was {short_text(before[name])}" for name in changed]


def collect_network(items: Mapping[str, ConfigItem]) -> dict[str, Any] | None:
    """Returns kind and arguments of a config's network; ``None`` where they are no plain values.

    Args:
        items: Items of the config by their ids, see :func:`~.config_source.items_being_resolved`.
    """
    found = component_source(items, NETWORK)
    if found is not None and isinstance(found["_target_"], TrainedNetwork):
        return found["_target_"].kept
    return found if found is not None and is_plain(found) else None
