"""Runs the commands of the shared package: ``python -m common <command>``, or ``trustseg <command>`` where installed.

In the folder of a bundle, from an archive as well, ``python -m scripts.common <command>`` is the same for that bundle.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

import fire

from .archive import build_archives, install, sign, verify
from .command import evaluate_on, export_network, segment_scans, train_on
from .command.arguments import show_plainly, spell_out
from .contrast.slices import cut_volumes
from .experiments.detection_report import write_detection_report
from .experiments.gates import run_gates
from .experiments.report import write_report
from .own_network import fit_own_bank, judge_scans
from .planning import plan_training
from .runtime.json_format import format_configs
from .runtime.knobs import write_knobs_pages
from .runtime.logs import quiet_libraries
from .runtime.session import report_error
from .runtime.shipped_settings import write_shipped_settings

Commands = Mapping[str, Callable[..., None]]

USER_COMMANDS: Commands = {
    "evaluate": evaluate_on,
    "export": export_network,
    "fit-bank": fit_own_bank,
    "install": install,
    "judge": judge_scans,
    "plan": plan_training,
    "segment": segment_scans,
    "sign": sign,
    "slices": cut_volumes,
    "train": train_on,
    "verify": verify,
    "zips": build_archives,
}
"""Commands that need no checkout of the repository."""

COMMANDS: Commands = {
    **USER_COMMANDS,
    "detection": write_detection_report,
    "format": format_configs,
    "gate": run_gates,
    "knobs": write_knobs_pages,
    "report": write_report,
    "settings": write_shipped_settings,
}


def main(commands: Commands = COMMANDS) -> None:
    """Runs the command that the command line names.

    Args:
        commands: Name -> function. By default all commands.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    # Lines on every config that is read.
    for library in ("monai", "monai.bundle.scripts", "monai.bundle.workflows"):
        logging.getLogger(library).setLevel(logging.ERROR)
    sys.excepthook = report_error
    for command in commands.values():
        show_plainly(command)
    fire.Fire(dict(commands), command=spell_out(sys.argv[1:], commands))


def trustseg() -> None:
    """Runs the command for users that the command line of ``trustseg`` names."""
    main(USER_COMMANDS)


if __name__ == "__main__":
    main()
