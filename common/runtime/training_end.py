"""Says at the end of a training whether its network is one to use, and with which command its user goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .distributed import is_main_process
from .next_command import command_line

logger = logging.getLogger(__name__)

METRIC = "val_mean_dice"

LOW_DICE = 0.5
"""Validation Dice below which a network is called not yet one to use: less than half of what it outlines is right."""

MINUTES = 20.0
"""Length of a training where nothing else is said, in minutes; below it, more time is the first thing to try."""


def tell_end(bundle_root: str, save_dir: str, output_dir: str, plan: Sequence[Mapping[str, Any]] = ()) -> None:
    """Logs how to segment scans with weights that a training has written, the last line of every training.

    A line before it says so where the weights are of no use yet: where their validation Dice is below 0.5.

    Args:
        bundle_root: Folder of the bundle.
        save_dir: Folder of the weights.
        output_dir: Folder of the results, with ``metrics.json``.
        plan: Choices of the plan that the training went by, each with ``setting`` and ``value``. Default none.
    """
    if not is_main_process():
        return
    line = command_line(bundle_root, "segment", "SCANS", o="RESULTS", model_dir=save_dir)
    warning = warn_of_low_dice(read_history(output_dir), {row["setting"]: row["value"] for row in plan})
    if warning:
        logger.warning("%s", warning)
    logger.info("%s; segment scans with: %s", "to see what it does all the same" if warning else "trained", line)


def read_history(output_dir: str | Path) -> dict[str, Any]:
    """Returns what a training has recorded in ``metrics.json``; empty where it recorded nothing.

    Args:
        output_dir: Folder of the results.
    """
    path = Path(output_dir, "metrics.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def warn_of_low_dice(history: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """Returns the line on a network that is not yet one to use; empty where it is one, or where nothing was validated.

    Args:
        history: ``best`` and ``epochs`` of a training, as ``metrics.json`` holds them.
        planned: Setting -> value of the plan that the training went by; empty for none.

    Example:
        >>> history = {"best": {"val_mean_dice": 0.055}, "epochs": [{"iteration": 3}, {"iteration": 6}]}
        >>> warn_of_low_dice(history, {"minutes": 1})
        'validation Dice 0.055 after 6 iterations: not yet a network to use; train longer (--minutes 20 or more)'
    """
    dice = (history.get("best") or {}).get(METRIC)
    if dice is None or dice >= LOW_DICE:
        return ""
    longer = "raise max_epochs"
    if "minutes" in planned:
        longer = f"--minutes {max(MINUTES, 2 * planned['minutes']):g} or more"
    elif "iterations" in planned:
        longer = f"--iterations {10 * planned['iterations']} or more"
    steps = history["epochs"][-1]["iteration"]
    more = "" if planned.get("minutes", MINUTES) < MINUTES else " or on more labels"
    return (
        f"validation Dice {dice:.3f} after {steps} iterations: not yet a network to use; train longer ({longer}){more}"
    )
