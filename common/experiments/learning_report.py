"""The table and the figure of learning curves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import draw_learning_curves
from ..metrics.statistics import signed_rank
from ..runtime.files import write_csv, write_json

logger = logging.getLogger(__name__)

PRETRAINED, SCRATCH = "pre-trained", "from scratch"
MEASURES = {
    "average_precision": "average precision",
    "best_dice": "Dice, best threshold (oracle)",
    "dice_per_patient": "Dice per patient",
}
"""Measure -> title of its panel."""

COLUMNS = (
    "patients", "start", "runs", "average_precision", "average_precision_std", "best_dice", "best_dice_std",
    "dice_per_patient", "dice_per_patient_std", "dice_filtered", "n", "p",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one test found out.

    Args:
        count: labeled patients.
        start: ``pre-trained`` or ``from scratch``.
        seed: of the run.
        report: as :func:`measure_scores` returns it.
    """

    count: int
    start: str
    seed: int
    report: Mapping[str, Any]

    def patients(self, *, filtered: bool = False) -> dict[str, float]:
        """Returns Dice per patient: of the predicted classes or, of a denoiser, at the oracle threshold."""
        found = self.report.get("segmentation")
        if found is not None:
            found = found["filtered"] if filtered else found
        values = (found or self.report)["dice_per_patient"]["values"]
        return {f"{self.seed}/{name}": math.nan if value is None else value for name, value in values.items()}


def tabulate(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Returns a row for each number of patients and start: means over seeds, standard deviations over seeds.

    ``p`` is Wilcoxon's signed-rank test of the Dice of the pre-trained against the other, patient by patient over all
    seeds; ``n`` is the number of those pairs.

    Args:
        outcomes: in any order.
    """
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda item: (item.count, item.start == SCRATCH, item.seed)):
        groups.setdefault((outcome.count, outcome.start), []).append(outcome)
    rows = []
    for (count, start), runs in groups.items():
        row: dict[str, Any] = {"patients": count, "start": start, "runs": len(runs)}
        values = {key: [_number(run.report[key]) for run in runs] for key in ("average_precision", "best_dice")}
        values["dice_per_patient"] = [_mean(run.patients().values()) for run in runs]
        for key, numbers in values.items():
            row |= {key: _mean(numbers), f"{key}_std": float(np.nanstd(numbers))}
        row["dice_filtered"] = _mean(_mean(run.patients(filtered=True).values()) for run in runs)
        other = groups.get((count, SCRATCH))
        if start == PRETRAINED and other:
            mine, theirs = (_merge(part) for part in (runs, other))
            pairs = sorted(mine.keys() & theirs.keys())
            found = signed_rank([mine[name] for name in pairs], [theirs[name] for name in pairs])
            row |= {"n": found["n"], "p": found["p"]}
        rows.append(row)
    return rows


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Writes ``learning_curve.json``, ``.csv`` and ``.png``, and the table to the log.

    Args:
        report: with ``rows`` as :func:`tabulate` returns them.
        folder: of the files.

    Raises:
        OutputError: when a file cannot be written.
    """
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    write_json(report, folder / "learning_curve.json")
    write_csv(rows, COLUMNS, folder / "learning_curve.csv")
    for row in rows:
        shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        logger.info("%s", shown)
    panels = {
        title: {
            start: [(row["patients"], row[key], row[f"{key}_std"]) for row in rows if row["start"] == start]
            for start in (PRETRAINED, SCRATCH)
        }
        for key, title in MEASURES.items()
    }
    draw_learning_curves(panels, folder / "learning_curve.png", xlabel="labeled patients")


def _merge(runs: Sequence[Outcome]) -> dict[str, float]:
    """Dice per patient of all seeds."""
    return {name: value for run in runs for name, value in run.patients().items()}


def _number(value: float | None) -> float:
    """A number that a file may hold as null."""
    return math.nan if value is None else float(value)


def _mean(values: Any) -> float:
    """Mean of the values that exist."""
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan
