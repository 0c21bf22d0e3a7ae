"""Collects what an evaluator finds out about every case."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..errors import CasesFailedError
from ..runtime.sparing import sparing
from ..runtime.tables import number_text

logger = logging.getLogger(__name__)

RESULTS = ("result", "metrics", "unit", "overlaps", "shares", "confusion", "signature", "calibration_bins", "error")
DESCRIPTIONS = ("case", "group", "patient", "region", "in_distribution", "damage")


class CaseRecorder:
    """Collects, for every case, its description, verdict, metrics and signature, or why it failed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attaches to an evaluation engine that works case by case."""
        engine.add_event_handler(Events.STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def reset(self) -> None:
        """Forgets all cases."""
        self.rows.clear()

    def __call__(self, engine: Engine) -> None:
        """Adds the cases of one iteration."""
        total = engine.state.epoch_length
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):  # type: ignore[arg-type]
            row = {key: batch[key] for key in DESCRIPTIONS if key in batch}
            row |= {key: output[key] for key in RESULTS if key in output}
            self.rows.append(row)
            with sparing("a line of the log"):
                logger.debug("%d of %s: %s %s", len(self.rows), total, row.get("case", ""), verdict_text(row))

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of cases that failed."""
        return [row for row in self.rows if "error" in row]

    def raise_if_failed(self, report: str | Path) -> None:
        """Ends the run with an error when a case failed.

        Args:
            report: File that the reasons are written to.

        Raises:
            CasesFailedError: When a case failed, naming how many, the first reason and the report.
        """
        if self.failed:
            raise CasesFailedError(
                f"{len(self.failed)} of {len(self.rows)} case(s) failed, the others are complete; the first: "
                f"{self.failed[0]['error']} (all in {report})"
            )


def verdict_text(row: dict[str, Any]) -> str:
    """Returns a few words on the verdict of a case."""
    result = row.get("result") or {}
    if "error" in row:
        return "failed"
    if result.get("oodm") is None:
        return f"no verdict: {result.get('reason', 'no signature was computed')}"
    word = "OUT OF DISTRIBUTION" if result["is_ood"] else "in distribution"
    return f"{oodm_text(result)}: {word}"


def oodm_text(result: Mapping[str, Any]) -> str:
    """Returns the numbers of a verdict.

    Args:
        result: Verdict on a case with ``oodm`` and ``threshold``.

    Example:
        >>> oodm_text({"oodm": 8.33681, "threshold": 1.4934})
        'OODM 8.337, threshold 1.493'
    """
    return f"OODM {number_text(result['oodm'])}, threshold {number_text(result['threshold'])}"


def quality_text(result: Mapping[str, Any]) -> str:
    """Returns a few words on the Dice to expect; empty where a verdict does not tell it.

    Args:
        result: Verdict on a case, see ``SpectralVerdictd``.

    Example:
        >>> quality_text({"expected_dice": 0.874, "expected_dice_low": 0.79})
        'expected Dice 0.87, at least 0.79'
        >>> quality_text({"expected_dice": 0.874, "expected_dice_low": 0.0})
        'expected Dice 0.87, nothing promised'
    """
    if result.get("expected_dice") is None:
        return ""
    low = result["expected_dice_low"]
    return f"expected Dice {result['expected_dice']:.2f}, " + (f"at least {low:.2f}" if low > 0 else "nothing promised")
