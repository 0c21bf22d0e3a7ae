"""Runs the commands of ``bundle_tool.pyz``, which needs nothing but Python (and ``cryptography`` for signatures)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from ..errors import BundleError, one_line
from .verify import install, sign, verify

COMMANDS: Mapping[str, Callable[..., None]] = {"install": install, "sign": sign, "verify": verify}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``verify``, ``install`` or ``sign`` and returns the exit status.

    Args:
        arguments: Arguments of the command line without the program; those of this process by default.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        COMMANDS[command](**options)
    except BundleError as error:
        sys.stderr.write(f"error: {one_line(str(error))}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bundle_tool", description="Checks and installs archives of bundles, and signs those that are passed on."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "verify": "check an archive",
        "install": "check an archive, then unpack it",
        "sign": "check an archive, then sign it",
    }
    added = {name: commands.add_parser(name, help=text) for name, text in texts.items()}
    for command in added.values():
        command.add_argument("file", help="the archive, a .zip file")
    for name in ("verify", "install"):
        added[name].add_argument("--public-key", help="PEM file; the signature beside the archive must be by its owner")
        added[name].add_argument(
            "--ignore-versions", action="store_true", help="packages may be missing or of other versions"
        )
    added["install"].add_argument("--into", required=True, help="folder in which the bundle's own folder is made")
    added["install"].add_argument("--folder", help="name of the bundle's folder in place of its own")
    added["install"].add_argument("--replace", action="store_true", help="replace a folder of that name")
    added["sign"].add_argument("--private-key", required=True, help="PEM file of an Ed25519 key without a passphrase")
    return parser
