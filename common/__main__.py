"""Runs the commands of the shared package: ``python -m common <command>``."""

from __future__ import annotations

import logging
import sys

import fire

from .archive import build_archives, install, sign, verify
from .contrast.slices import cut_volumes
from .experiments.detection_report import write_detection_report
from .experiments.gates import run_gates
from .experiments.report import write_report
from .own_network import fit_own_bank, judge_scans
from .planning import plan_training
from .runtime.json_format import format_configs
from .runtime.knobs import write_knobs_pages
from .runtime.session import report_error
from .runtime.shipped_settings import write_shipped_settings

COMMANDS = {
    "detection": write_detection_report,
    "fit-bank": fit_own_bank,
    "format": format_configs,
    "gate": run_gates,
    "install": install,
    "judge": judge_scans,
    "knobs": write_knobs_pages,
    "plan": plan_training,
    "report": write_report,
    "settings": write_shipped_settings,
    "sign": sign,
    "slices": cut_volumes,
    "verify": verify,
    "zips": build_archives,
}


def main() -> None:
    """Runs the command that the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Lines of these on every run of an engine, and on readers that are not installed, would hide ours.
    for library in ("ignite", "monai"):
        logging.getLogger(library).setLevel(logging.ERROR)
    sys.excepthook = report_error
    fire.Fire(COMMANDS)


if __name__ == "__main__":
    main()
