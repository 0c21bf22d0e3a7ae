"""Runs the configs of a bundle in this process, as ``python -m monai.bundle run`` does in one of its own."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import run

from ..errors import ConfigError
from ..runtime.bundle_folders import find_bundle
from ..runtime.options import TRACKING, check_option, check_tracking, read_laid

logger = logging.getLogger(__name__)

ACCEPTED = TRACKING | {"bundle"}
"""Options of the commands beside the keys of their config."""


def run_on_scans(
    config: str, scans: str | Sequence[str], output_dir: str, bundle: str | None, settings: Mapping[str, Any]
) -> None:
    """Runs a config of a bundle on scans, and names the page that shows the results.

    Args:
        config: Name of the config, without its ending.
        scans: One scan or folder, or a list of these.
        output_dir: Folder of the results.
        bundle: Name of the bundle, or its folder; ``None`` for the default.
        settings: Further options of the config.

    Raises:
        MissingDataError: When there is no such bundle, or no scan.
        ConfigError: When an option does not exist, or the folder is none.
        CasesFailedError: When a scan failed; the others are complete.
    """
    folder = check_output(output_dir)
    root = find_bundle(bundle)
    logger.info("bundle: %s", root)
    places: dict[str, Any] = {
        "dataset_dir": scans if isinstance(scans, str) else list(map(str, scans)),
        "output_dir": folder,
    }
    run_bundle(root, [str(root / "configs" / f"{config}.json")], places | dict(settings))
    logger.info("to look at: %s", Path(folder, "report.html"))


def run_bundle(root: Path, files: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Runs configs of a bundle, laid over one another.

    Args:
        root: Folder of the bundle.
        files: Paths of the configs, the last one above the others.
        settings: Options of the run; those that are ``None`` in a config that has ``None`` change nothing.

    Raises:
        ConfigError: When there is no such option.
    """
    config = read_laid(files)
    check_tracking(settings.get("tracking"))
    for option, value in settings.items():
        check_option(config, option, value, accepted=ACCEPTED)
    with bundle_code(root):
        run(run_id="run", config_file=list(files), logging_file=False, **settings)


def with_weights(model_dir: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a run with the folder of its weights among them, where one is given.

    Args:
        model_dir: Folder of weights and bank; ``None`` for that of the bundle.
        settings: Further options.
    """
    return dict(settings) if model_dir is None else {"model_dir": str(model_dir), **settings}


@contextmanager
def bundle_code(root: Path) -> Iterator[None]:
    """Lets configs of a bundle name its code, which lies beside them; it stays importable afterwards.

    Args:
        root: Folder of the bundle.
    """
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    with warnings.catch_warnings():
        # A config is code: whoever names a bundle runs it.
        warnings.filterwarnings("ignore", "parsing config_file", UserWarning)
        yield


def check_output(output: str) -> str:
    """Returns the folder or file of the results, which may be called by a number.

    Args:
        output: Folder or file, which a command line may have given as a number.

    Raises:
        ConfigError: When it is neither, as with ``-o`` alone.
    """
    if not isinstance(output, str | int | float) or isinstance(output, bool):
        raise ConfigError("no place is given for the results; name one with -o")
    return str(output)
