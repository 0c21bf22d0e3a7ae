"""The command line of ``bundle_tool.pyz``, which needs nothing but Python (and ``cryptography`` for signatures)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import BundleError, one_line
from .verify import install, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``verify`` or ``install`` and returns the exit status.

    Args:
        arguments: of the command line, without the program; those of this process by default.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "install":
            install(**options)
        else:
            verify(**options)
    except BundleError as error:
        sys.stderr.write(f"error: {one_line(str(error))}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bundle_tool", description="Checks and installs archives of bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("verify", "check an archive"), ("install", "check an archive, then unpack it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", help="the archive, a .zip file")
        command.add_argument("--public-key", help="PEM file; the signature beside the archive must be by its owner")
        command.add_argument(
            "--ignore-versions", action="store_true", help="packages may be missing or of other versions"
        )
    command.add_argument("--into", required=True, help="folder in which the bundle's own folder is made")
    command.add_argument("--folder", help="name of the bundle's folder in place of its own")
    command.add_argument("--replace", action="store_true", help="replace a folder of that name")
    return parser
