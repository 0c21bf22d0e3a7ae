"""Runs of a bundle's configs from within an experiment, one after the other or in processes of their own."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import set_determinism

from ..errors import ConfigError
from ..runtime.options import has_option


def bundle_config(
    bundle_root: str, name: str, options: Mapping[str, Any], overlays: Sequence[str] = ()
) -> ConfigParser:
    """Returns a config of a bundle with these options, those that it does not have left out.

    Training and evaluation share options that only one of them has; :func:`require_options` finds those that none has.

    Args:
        bundle_root: folder of the bundle.
        name: of the config, without suffix.
        options: with ``seed``, which all randomness is set to.
        overlays: names of files among the bundle's configs that are laid over it.

    Raises:
        ConfigError: when there is no such overlay.
    """
    if bundle_root not in sys.path:
        # A process that was started for a job has never run a config of the bundle.
        sys.path.insert(0, bundle_root)
    set_determinism(int(options["seed"]))
    parser = ConfigParser()
    parser.read_config(_files(bundle_root, name, overlays))
    laid = _read(_files(bundle_root, name, overlays)[1:])
    parser.update({key: value for key, value in options.items() if _takes(parser.config, laid, key)})
    return parser


def require_options(
    bundle_root: str, name: str, options: Mapping[str, Any], overlays: Sequence[str] = (), *, where: str
) -> None:
    """Makes sure that a config has all of these options.

    Args:
        bundle_root: folder of the bundle.
        name: of the config, without suffix.
        options: to be set.
        overlays: names of files that are laid over it.
        where: the options stand, for the message.

    Raises:
        ConfigError: naming the first option that does not exist, and the most similar one that does.
    """
    files = _files(bundle_root, name, overlays)
    config, laid = _read(files), _read(files[1:])
    for option in options:
        if not _takes(config, laid, option) or not has_option(config, option):
            near = difflib.get_close_matches(option, list(config), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where} sets {option!r}, which is no option of {name}.json{hint}")


def _files(bundle_root: str, name: str, overlays: Sequence[str]) -> list[str]:
    """A config and what is laid over it."""
    folder = Path(bundle_root) / "configs"
    for overlay in overlays:
        if not (folder / overlay).is_file():
            raise ConfigError(f"overlays names {overlay!r}, but there is no such file in {folder}; give names of these")
    return [str(folder / file) for file in (f"{name}.json", *overlays)]


def _read(files: Sequence[str]) -> dict[str, Any]:
    """The content of config files, those of later ones in place of those of earlier ones."""
    content: dict[str, Any] = {}
    for file in files:
        content |= ConfigParser.load_config_file(file)
    return content


def _takes(config: Mapping[str, Any], laid: Mapping[str, Any], option: str) -> bool:
    """Whether an option is to be set: a nested one exists in what it is nested in, unless an overlay replaced that."""
    outer, _, inner = option.partition("#")
    if inner and outer in laid:
        return inner.split("#")[0] in laid[outer]
    return outer in config


def log_to_stdout() -> None:
    """Lets a process that was started for jobs log as the main process does."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stdout)
