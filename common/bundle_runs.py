"""Runs of a bundle's configs from within an experiment, one after the other or in processes of their own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import set_determinism


def bundle_config(bundle_root: str, name: str, options: Mapping[str, Any]) -> ConfigParser:
    """Returns a config of a bundle with these options, those that it does not have left out.

    Args:
        bundle_root: folder of the bundle.
        name: of the config, without suffix.
        options: with ``seed``, which all randomness is set to.
    """
    if bundle_root not in sys.path:
        # A process that was started for a job has never run a config of the bundle.
        sys.path.insert(0, bundle_root)
    set_determinism(int(options["seed"]))
    parser = ConfigParser()
    parser.read_config(str(Path(bundle_root) / "configs" / f"{name}.json"))
    # Options of nested keys exist in what they are nested in.
    parser.update({key: value for key, value in options.items() if key.split("#")[0] in parser.config})
    return parser


def log_to_stdout() -> None:
    """Lets a process that was started for jobs log as the main process does."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stdout)
