"""Says with which command a user goes on, by ``trustseg`` or, where that is not installed, by Python."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from .bundle_folders import DEFAULT_BUNDLE

PROGRAM = "trustseg"

_PACKAGE = Path(__file__).resolve().parents[1]


def command_line(bundle_root: str | Path, command: str, *places: str, **options: object) -> str:
    """Returns a command as a user types it in the current folder, the bundle named unless it is the default.

    Args:
        bundle_root: Folder of the bundle.
        command: Name of the command.
        *places: Arguments by place; words in capitals stand for what the user has to name.
        **options: Option -> value; the folder or file of the results, ``o``, goes by its letter.
    """
    root = Path(bundle_root).resolve()
    words = [command, *map(shlex.quote, places)]
    # From an archive, its own bundle is the default.
    carried = _PACKAGE.parent.parent == root
    installed = shutil.which(PROGRAM) is not None or Path(sys.argv[0]).stem == PROGRAM
    default = root if carried and not installed else _PACKAGE.parent / "bundles" / DEFAULT_BUNDLE
    options |= {} if root == default else {"bundle": root}
    for name, value in options.items():
        words += [f"-{name}" if len(name) == 1 else f"--{name}", shlex.quote(str(value))]
    if installed:
        return " ".join([PROGRAM, *words])
    module, folder = ("scripts.common", root) if carried else ("common", _PACKAGE.parent)
    # Python finds the module from its own folder, where paths that are relative here lead elsewhere.
    found = [f"PYTHONPATH={shlex.quote(str(folder))}"] if Path.cwd() != folder else []
    return " ".join([*found, "python", "-m", module, *words])
