"""Runs the commands of the shared package: ``python -m common <command>``, or ``trustseg <command>`` where installed.

In the folder of a bundle, from an archive as well, ``python -m scripts.common <command>`` is the same for that bundle.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import fire

from .command.arguments import asks_for_help, find_command, spell_out
from .command.commands import Command
from .command.help import command_page, commands_page
from .runtime.error_report import report_error
from .runtime.logs import quiet_libraries
from .runtime.next_command import PROGRAM

Commands = Mapping[str, Command]

USER_COMMANDS: Commands = {
    "evaluate": Command("command.evaluate:evaluate_on"),
    "export": Command("command.export:export_network"),
    "fit-bank": Command("own_network.fit:fit_own_bank"),
    "install": Command("archive.verify:install"),
    "judge": Command("own_network.judge:judge_scans", places="[NETWORK] SCANS"),
    "plan": Command("planning.command:plan_training"),
    "segment": Command("command.segment:segment_scans"),
    "sign": Command("archive.verify:sign"),
    "slices": Command("contrast.slices:cut_volumes"),
    "train": Command("command.train:train_on"),
    "verify": Command("archive.verify:verify"),
    "zips": Command("archive.build:build_archives"),
}
"""Commands that need no checkout of the repository."""

COMMANDS: Commands = {
    **USER_COMMANDS,
    "detection": Command("experiments.detection_report:write_detection_report"),
    "format": Command("runtime.json_format:format_configs"),
    "gate": Command("experiments.gates:run_gates"),
    "knobs": Command("runtime.knobs:write_knobs_pages"),
    "report": Command("experiments.report:write_report"),
    "settings": Command("runtime.shipped_settings:write_shipped_settings"),
}


def main(commands: Commands = COMMANDS) -> None:
    """Runs the command that the command line names, or shows its help; only a run imports what the command needs.

    Args:
        commands: Name -> command. By default all commands.
    """
    sys.excepthook = report_error
    arguments = sys.argv[1:]
    program = PROGRAM if Path(sys.argv[0]).stem == PROGRAM else f"python -m {__package__}"
    if asks_for_help(arguments):
        named = bool(arguments) and not arguments[0].startswith("-")
        name = arguments[0] if named else ""
        page = command_page(name, find_command(name, commands), program) if named else commands_page(commands, program)
        sys.stdout.write(f"{page}\n")
        return
    name, *spelled = spell_out(arguments, commands, program)
    function = commands[name].load()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    # Lines on every config that is read.
    for library in ("monai", "monai.bundle.scripts", "monai.bundle.workflows"):
        logging.getLogger(library).setLevel(logging.ERROR)
    fire.Fire(function, command=spelled, name=f"{program} {name}")


def trustseg() -> None:
    """Runs the command for users that the command line of ``trustseg`` names."""
    main(USER_COMMANDS)


if __name__ == "__main__":
    main()
