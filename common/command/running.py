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


def run_on_scans(
    config: str, scans: str | Sequence[str], output_dir: str | None, bundle: str | None, settings: Mapping[str, Any]
) -> None:
    """Runs a config of a bundle on scans, and names the page that shows the results.

    Args:
        config: Name of the config, without its ending.
        scans: One scan or folder, or a list of these.
        output_dir: Folder of the results; ``None`` for none, which is an error.
        bundle: Name of the bundle, or its folder; ``None`` for the default.
        settings: Further options of the config.

    Raises:
        MissingDataError: When there is no such bundle, or no scan.
        ConfigError: When an option is missing, or does not exist.
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
        check_option(config, option, value, accepted=TRACKING)
    with bundle_code(root):
        run(run_id="run", config_file=list(files), logging_file=False, **settings)


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


def check_output(output: str | None) -> str:
    """Returns the folder or file of the results, which may be called by a number.

    Args:
        output: Folder or file; ``None`` for none.

    Raises:
        ConfigError: When there is none.
    """
    if not isinstance(output, str | int | float) or isinstance(output, bool):
        raise ConfigError("no place is given for the results; name one with -o")
    return str(output)
