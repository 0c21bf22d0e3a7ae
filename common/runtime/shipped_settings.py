"""Writes the settings of the weights that bundles ship, from their ``train.json``."""

from __future__ import annotations

import sys
from pathlib import Path

from monai.bundle import ConfigParser

from .model_settings import DEFAULTS, NAMES, NEEDED, NETWORK, SETTINGS_FILE, SettingsWriter, read_settings

CLASSES = "foreground_labels"


def write_shipped_settings(bundles: str = "bundles") -> None:
    """Writes ``models/model_settings.json`` of every bundle: what ``train.json`` decides without any option.

    Which values of the labels are the classes, and what these are called, is a matter of the data that the weights were
    trained on: it stays as the file has it.

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
        file = folder / "models" / SETTINGS_FILE
        before = read_settings(file) if file.is_file() else {}
        if CLASSES in parser:
            parser[CLASSES] = before.get(CLASSES)
        parser["settings_writer"] = {
            "_target_": f"{SettingsWriter.__module__}.{SettingsWriter.__name__}",
            "save_dir": str(folder / "models"),
            "config": "$__local_refs",
            "class_names": before.get(NAMES),
        }
        for name in (*NEEDED, *DEFAULTS, NETWORK):
            if name in parser:
                parser.get_parsed_content(name)
        parser.get_parsed_content("settings_writer").write()
