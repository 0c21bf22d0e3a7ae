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
from ..runtime.options import TRACKING, check_option, check_tracking, read_laid

logger = logging.getLogger(__name__)


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
