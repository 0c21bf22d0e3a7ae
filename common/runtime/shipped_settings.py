"""Writes the settings of the weights that bundles ship, from their ``train.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from .model_settings import DEFAULTS, NEEDED, NETWORK, SETTINGS_FILE, SettingsWriter


def write_shipped_settings(bundles: str = "bundles") -> None:
    """Writes ``models/model_settings.json`` of every bundle: what ``train.json`` decides without any option.

    Where the file is there, settings without which weights mean nothing stay as they are: weights may be older than a
    default.

    Args:
        bundles: Folder of the bundles. Default ``bundles``.

    Raises:
        OutputError: When a file cannot be written.
    """
    for folder in sorted(path.parent for path in Path(bundles).glob("*/configs")):
        if str(folder) not in sys.path:
            # Networks are named as in a bundle, in whichever of them.
            sys.path.append(str(folder))
        parser = ConfigParser(ConfigParser.load_config_file(folder / "configs" / "train.json"))
        for name, value in _kept(folder / "models" / SETTINGS_FILE).items():
            parser[name] = value
        parser["settings_writer"] = {
            "_target_": f"{SettingsWriter.__module__}.{SettingsWriter.__name__}",
            "save_dir": str(folder / "models"),
            "config": "$__local_refs",
        }
        for name in (*NEEDED, *DEFAULTS, NETWORK):
            if name in parser:
                parser.get_parsed_content(name)
        parser.get_parsed_content("settings_writer").write()


def _kept(path: Path) -> dict[str, Any]:
    """The settings of shipped weights that these need."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: content[name] for name in NEEDED if name in content}
