"""What an evaluator finds out about every case, collected, and the report a hospital reads."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import Orientation
from numpy.typing import NDArray

from ..errors import CasesFailedError
from ..figures import draw_gallery
from ..figures.slices import telling_slice
from ..runtime.files import write_csv, write_json
from ..runtime.listing import skipped_note
from ..spectral import SignatureBank

logger = logging.getLogger(__name__)

COLUMNS = ("image", "oodm", "threshold", "is_ood", "error")
RESULTS = ("result", "metrics", "shares", "confusion", "signature", "calibration_bins", "error")
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
            logger.info("%d of %s: %s %s", len(self.rows), total, row.get("case", ""), verdict_text(row))

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of cases that failed."""
        return [row for row in self.rows if "error" in row]

    def raise_if_failed(self, report: str | Path) -> None:
        """Ends the run with an error when a case failed.

        Args:
            report: where the reasons are written.

        Raises:
            CasesFailedError: naming how many, the first reason and the report.
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
    return f"OODM {result['oodm']:.4f}, threshold {result['threshold']:.4f}: {word}"


class OODReport(CaseRecorder):
    """Writes ``ood_report.csv`` and ``ood_report.json`` with the verdict on every scan, and a gallery of the first.

    Args:
        output_dir: folder of the files.
        bank_file: the signature bank, whose digests go into the JSON.
        pictures: scans shown in ``gallery.png``; those called out-of-distribution come first.
    """

    def __init__(self, output_dir: str, bank_file: str, pictures: int = 12) -> None:
        super().__init__()
        self.output_dir, self.bank_file, self.pictures = Path(output_dir), Path(bank_file), pictures
        self.slices: dict[bool, list[tuple[NDArray[np.float32], NDArray[np.float32], str]]] = {True: [], False: []}

    def reset(self) -> None:
        """Forgets all cases and pictures."""
        super().reset()
        self.slices = {True: [], False: []}

    def __call__(self, engine: Engine) -> None:
        """Adds the cases of one iteration, and a slice of each."""
        super().__call__(engine)
        batch, output = engine.state.batch[0], engine.state.output[0]  # type: ignore[index]
        result = self.rows[-1].get("result") or {}
        strange = bool(result.get("is_ood"))
        if "error" in output or len(self.slices[strange]) >= self.pictures:
            return
        image, segmentation = batch["image"], output["pred"]
        if image.ndim == segmentation.ndim == 4:
            # Results are in the scan's own orientation, the network's image is in RAS.
            segmentation = Orientation("RAS", labels=None)(segmentation)
        verdict = {None: "no verdict", True: "OUT OF DISTRIBUTION", False: "in distribution"}[result.get("is_ood")]
        self.slices[strange].append((*telling_slice(image, segmentation), f"{self.rows[-1]['case']}\n{verdict}"))

    def finish(self) -> None:
        """Writes both files.

        Raises:
            CasesFailedError: after writing, when a case failed.
            OutputError: when a file cannot be written.
        """
        lines = [self._line(row) for row in self.rows]
        write_csv(lines, COLUMNS, self.output_dir / "ood_report.csv")
        bank = SignatureBank.load(self.bank_file)
        content = {
            "bank_digest": hashlib.sha256(self.bank_file.read_bytes()).hexdigest(),
            "weights_digest": bank.settings.weights_digest,
            "rows": lines,
        }
        write_json(content, self.output_dir / "ood_report.json")
        shown = (self.slices[True] + self.slices[False])[: self.pictures]
        if shown:
            draw_gallery(shown, self.output_dir / "gallery.png")
        report, note = self.output_dir / "ood_report.csv", skipped_note(self.output_dir)
        logger.info("verdicts on %d scan(s) written to %s%s", len(lines), report, note)
        self.raise_if_failed(self.output_dir / "ood_report.csv")

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        """One line of the report."""
        result = row.get("result") or {}
        verdict = {name: result.get(name) for name in ("oodm", "threshold", "is_ood")}
        return {"image": row["case"], **verdict, "error": row.get("error", result.get("reason"))}
