"""Reads what a config in MONAI's format says of a network: its definition, its preprocessing, its sliding window."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import ConfigError, MissingDataError
from ..runtime.reasons import error_line

SUFFIXES = (".json", ".yaml", ".yml")
"""Endings of the files of configs."""

NETWORK_IDS = ("network_def", "network")
"""Ids of the network in a config, the first that there is."""

LOADERS = ("LoadImaged", "LoadScand", "EnsureChannelFirstd", "CheckImaged")
"""Transforms at the beginning of a preprocessing that read a file; ours, which check it, take their place."""

PARTS = ("load_transforms", "image_transforms")
"""Ids of what loads a scan, and of what prepares it after that."""

_UNUSABLE = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError, OSError)
"""What MONAI raises for a config that cannot be read or made into objects."""


class NetworkConfig:
    """A config in the format of MONAI's bundles, such as a bundle's ``inference.json``; it is code, and may run any.

    Args:
        content: Path of a JSON or YAML file, or its content: a whole config, or the definition of a network alone, with
            ``_target_``.
        root: Folder of the bundle that it belongs to, for ``bundle_root``. ``None``, the default, for none.
        model_dir: Folder of the weights, for ``model_dir``. ``None``, the default, for what the config says.

    Raises:
        ConfigError: When it cannot be read.
        MissingDataError: When there is no such file.
    """

    def __init__(
        self, content: str | Path | Mapping[str, Any], root: Path | None = None, *, model_dir: str | None = None
    ) -> None:
        self.name = "the network's definition" if isinstance(content, Mapping) else str(content)
        config = dict(content) if isinstance(content, Mapping) else self._read(Path(content))
        config = {NETWORK_IDS[0]: config} if "_target_" in config else config
        self.parser = ConfigParser(config)
        if root is not None:
            self.parser["bundle_root"] = str(root)
            # Code of a bundle lies beside its configs.
            sys.path[:0] = [] if str(root) in sys.path else [str(root)]
        if model_dir is not None:
            self.parser["model_dir"] = str(model_dir)
        if "device" in config:
            # Scans are prepared on the CPU, so that a bank belongs to machines with a GPU and without alike.
            self.parser["device"] = "$torch.device('cpu')"

    def _read(self, path: Path) -> dict[str, Any]:
        """The content of a file."""
        if not path.is_file():
            raise MissingDataError(f"there is no config {path}; give a file in the format of MONAI's bundles")
        try:
            config = ConfigParser.load_config_file(path)
        except _UNUSABLE as error:
            raise ConfigError(f"{path} cannot be read as JSON or YAML ({error_line(error)}); correct it") from error
        if not isinstance(config, dict):
            raise ConfigError(f"{path} holds a {type(config).__name__}; accepted is a config, or a '_target_'")
        return config

    def has(self, key: str) -> bool:
        """Returns whether the config has a part of that id."""
        return key in self.parser.config

    def make(self, key: str) -> Any:
        """Returns the object that a part of the config describes.

        Args:
            key: Id of the part.

        Raises:
            ConfigError: When it cannot be made, with the reason.
        """
        try:
            return self.parser.get_parsed_content(key)
        except _UNUSABLE as error:
            raise ConfigError(
                f"{key!r} of {self.name} cannot be made: {error_line(error)}; correct it, or install what it needs"
            ) from error

    def make_network(self) -> Any:
        """Returns the network that the config defines, without weights.

        Raises:
            ConfigError: When it defines none, or it cannot be made.
        """
        key = next((key for key in NETWORK_IDS if self.has(key)), None)
        if key is None:
            raise ConfigError(
                f"{self.name} defines no network; needed is {' or '.join(map(repr, NETWORK_IDS))}, or '_target_' alone"
            )
        return self.make(key)

    def make_parts(self) -> tuple[list[Any], list[Any]] | None:
        """Returns what loads a scan and what prepares it after that; ``None`` where the config has no such two parts.

        Configs of this collection have them, and their banks are bound to the second one.

        Raises:
            ConfigError: When a part cannot be made.
        """
        if not all(map(self.has, PARTS)):
            return None
        load, prepare = (list(self.make(part)) for part in PARTS)
        return load, prepare

    def make_transforms(self) -> tuple[bool, list[Any]]:
        """Returns whether a file must be read before the preprocessing, and what prepares an image after that.

        What reads it in the config is left out; only a loader of another kind, or one that comes later, stays.

        Raises:
            ConfigError: When the preprocessing cannot be made.
        """
        if not self.has("preprocessing"):
            return True, []
        made = self.make("preprocessing")
        transforms = list(getattr(made, "transforms", made))
        prepared = list(transforms)
        while prepared and type(prepared[0]).__name__ in LOADERS:
            prepared.pop(0)
        return not any("Load" in type(transform).__name__ for transform in prepared), prepared

    def reads_sigmoid(self) -> bool | None:
        """Returns whether the postprocessing takes channels as classes by themselves; ``None`` where it is silent."""
        found = [item for item in _dictionaries(self.parser.config.get("postprocessing")) if "sigmoid" in item]
        return True if any(item["sigmoid"] is True for item in found) else None


def _dictionaries(config: Any) -> Iterator[Mapping[str, Any]]:
    """All dictionaries within a config."""
    if isinstance(config, Mapping):
        yield config
    for part in config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ():
        yield from _dictionaries(part)
