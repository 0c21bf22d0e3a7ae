"""Reports an evaluation: how well a network segments, and how well its bank tells out-of-distribution scans."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.metrics import Metric
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from ..figures import draw_reliability, draw_roc, draw_scores, draw_signatures
from ..handlers.gallery import EvaluationGallery
from ..handlers.recorder import CaseRecorder
from ..metrics.confusion import describe_matrices
from ..metrics.detection import detection_report
from ..metrics.segmentation import METRICS
from ..metrics.statistics import spearman, summarize
from ..runtime.files import write_csv, write_json
from ..runtime.listing import skipped_note
from ..runtime.sparing import sparing
from ..spectral import SignatureBank
from .evaluation_table import distance_unit_of, notes_on_labels, result_lines
from .inference_checks import InferencePreflight
from .measures import measure_groups, measure_persons
from .report_page import write_evaluation_page

logger = logging.getLogger(__name__)

Row = dict[str, Any]

UNDEFINED = "the ground truth is empty, or, for a distance, the prediction is"
"""Why a metric of a case may have no value."""


def case_mean(row: Row, metric: str) -> float:
    """Returns a metric of one case, averaged over its channels; NaN when none has it."""
    values = [channel[metric] for channel in row.get("metrics", {}).values() if not math.isnan(channel[metric])]
    return float(np.mean(values)) if values else math.nan


def segmentation_report(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns, for every metric: mean, std, n, per class, per group, per case, and why a case has none.

    Args:
        rows: Rows of the recorder, one for each case; those without ``metrics`` (no label, failed) are left out.
    """
    measured = [row for row in rows if "metrics" in row]
    groups = sorted({str(row.get("group", "")) for row in measured})
    classes = sorted({channel for row in measured for channel in row["metrics"]})
    report: dict[str, Any] = {}
    for metric in METRICS if measured else ():
        per_case = {str(row.get("case", index)): case_mean(row, metric) for index, row in enumerate(measured)}
        report[metric] = summarize(list(per_case.values())) | {
            "per_class": {name: summarize(_of_class(measured, name, metric)) for name in classes},
            "per_group": {
                name: summarize([case_mean(row, metric) for row in measured if str(row.get("group", "")) == name])
                for name in groups
            },
            "per_case": {name: None if math.isnan(value) else value for name, value in per_case.items()},
            "undefined": {name: UNDEFINED for name, value in per_case.items() if math.isnan(value)},
        }
    return report


def _of_class(measured: Sequence[Row], name: str, metric: str) -> list[float]:
    """A metric of one class in every case; data sets judged together may have different classes."""
    return [row["metrics"].get(name, {}).get(metric, math.nan) for row in measured]


def test_set_report(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the measures of all labeled cases together, see :func:`describe_matrices`; nothing without matrices."""
    matrices = [row["confusion"] for row in rows if "confusion" in row]
    return describe_matrices(matrices) if matrices else {}


def rank_correlation(rows: Sequence[Row], told: str = "oodm") -> dict[str, float | int | None]:
    """Returns Spearman's correlation between what a verdict tells and Dice over all labeled cases.

    Args:
        rows: Rows of the recorder, one for each case.
        told: Name in the verdict. Default ``oodm``, whose correlation is near -1 at best; that of ``expected_dice`` is
            near 1.
    """
    judged = [row for row in rows if "metrics" in row and (row.get("result") or {}).get(told) is not None]
    return spearman([row["result"][told] for row in judged], [case_mean(row, "dsc") for row in judged])


def quality_report(rows: Sequence[Row]) -> dict[str, float | int | None]:
    """Returns how the predicted Dice meets the true one, over labeled cases for which there is a prediction.

    Args:
        rows: Rows of the recorder, one for each case.

    Returns:
        ``coverage``, the share of cases whose Dice reaches ``expected_dice_low``; ``mean_absolute_error``, of
        ``expected_dice``; and ``n``, the number of cases.
    """
    known = [row for row in rows if "metrics" in row and (row.get("result") or {}).get("expected_dice") is not None]
    pairs = [(case_mean(row, "dsc"), row["result"]) for row in known]
    pairs = [(dice, result) for dice, result in pairs if not math.isnan(dice)]
    if not pairs:
        return {"coverage": None, "mean_absolute_error": None, "n": 0}
    return {
        "coverage": float(np.mean([dice >= result["expected_dice_low"] for dice, result in pairs])),
        "mean_absolute_error": float(np.mean([abs(dice - result["expected_dice"]) for dice, result in pairs])),
        "n": len(pairs),
    }


def has_verdict(row: Row) -> bool:
    """Returns whether a case has an OODM."""
    return (row.get("result") or {}).get("oodm") is not None


def _share(row: Row, channel: str) -> float | None:
    """Share of voxels of a channel in the ground truth of a case."""
    return row.get("shares", {}).get(channel)


class CaseMean(Metric):
    """Mean over cases of a metric that ``MeasureSegmentationd`` computed; the key metric of evaluation engines.

    Out-of-distribution cases do not count: a network that fails on them is no worse for it.

    Args:
        name: Name of the metric, one of :data:`~..metrics.segmentation.METRICS`. Default ``dsc``.
    """

    def __init__(self, name: str = "dsc") -> None:
        self.name = name
        super().__init__()

    def reset(self) -> None:
        """Forgets all cases."""
        self._values: list[float] = []

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Adds the cases of one iteration; those without a label or without a value are left out."""
        values = [case_mean(dict(case), self.name) for case in output if case.get("in_distribution", True)]
        self._values += [value for value in values if not math.isnan(value)]

    def compute(self) -> float:
        """Returns the mean; NaN without any value."""
        return float(np.mean(self._values)) if self._values else math.nan


class Evaluation:
    """Runs an evaluation and writes ``metrics.json``, ``cases.csv``, the figures, and ``report.html``, which shows all.

    Args:
        preflight: Check that loads weights and bank and makes sure that they belong together.
        evaluator: Engine that segments and measures every case.
        recorder: Recorder that is attached to the evaluator.
        output_dir: Folder of the results.
        gallery: Gallery attached to the evaluator, whose small pictures ``report.html`` shows. Default none.
        metadata_file: File ``configs/metadata.json`` of the bundle, after which ``report.html`` names bundle and
            classes. Default none.
        class_names: Index of a class, as a text -> its name, of weights that were trained on other classes. Default
            none: those of the metadata.
    """

    def __init__(
        self,
        preflight: InferencePreflight,
        evaluator: Any,
        recorder: CaseRecorder,
        output_dir: str,
        *,
        gallery: EvaluationGallery | None = None,
        metadata_file: str | None = None,
        class_names: Mapping[str, str] | None = None,
    ) -> None:
        self.preflight, self.evaluator, self.recorder = preflight, evaluator, recorder
        self.output_dir, self.gallery, self.metadata_file = Path(output_dir), gallery, metadata_file
        self.class_names = class_names

    def run(self) -> dict[str, Any]:
        """Returns the content of ``metrics.json``.

        Raises:
            CasesFailedError: After writing, when a case failed.
            BankMismatchError: Before anything is computed, when the bank belongs to other weights.
            OutputError: When results cannot be written.
        """
        bank = self.preflight.run()
        self.evaluator.run()
        rows = self.recorder.rows
        inside = [row for row in rows if row.get("in_distribution", True)]
        outside = [row for row in rows if not row.get("in_distribution", True)]
        report: dict[str, Any] = {
            "segmentation": segmentation_report(inside),
            "segmentation_out_of_distribution": segmentation_report(outside),
            "test_set": test_set_report(inside),
            "measures": measure_persons(inside),
            "measures_by_group": measure_groups(inside),
            "detection": self._detect(inside, outside, bank.threshold),
            "false_alarms": self._false_alarms(inside),
            "rank_correlation_oodm_dsc": rank_correlation(rows),
            "rank_correlation_expected_dice_dsc": rank_correlation(rows, "expected_dice"),
            "expected_quality": {
                "in_distribution": quality_report(inside),
                "out_of_distribution": quality_report(outside),
            },
            "failed": [{"image": row["case"], "error": row["error"]} for row in self.recorder.failed],
        }
        write_json(report, self.output_dir / "metrics.json")
        self._write_cases(rows)
        self._draw(inside, outside, bank, report["detection"])
        pictures = self.gallery.thumbnails if self.gallery else []
        write_evaluation_page(
            rows,
            report,
            bank,
            self.output_dir,
            thumbnails=pictures,
            metadata_file=self.metadata_file,
            class_names=self.class_names,
        )
        self._log(report)
        self.recorder.raise_if_failed(self.output_dir / "metrics.json")
        return report

    @staticmethod
    def _scores(rows: Sequence[Row]) -> dict[str, list[float]]:
        """Group -> OODM of its cases."""
        scores: dict[str, list[float]] = {}
        for row in filter(has_verdict, rows):
            scores.setdefault(str(row.get("group", "in_distribution")), []).append(row["result"]["oodm"])
        return scores

    def _detect(self, inside: Sequence[Row], outside: Sequence[Row], threshold: float) -> dict[str, Any]:
        """Detection metrics, empty where one of the two kinds is missing."""
        negatives = [score for scores in self._scores(inside).values() for score in scores]
        positives = self._scores(outside)
        return detection_report(negatives, positives, threshold) if negatives and positives else {}

    @staticmethod
    def _false_alarms(inside: Sequence[Row]) -> dict[str, float | int | None]:
        """Share of in-distribution cases that are called out-of-distribution."""
        verdicts = [row["result"]["is_ood"] for row in inside if has_verdict(row)]
        return {"share": float(np.mean(verdicts)) if verdicts else None, "n": len(verdicts)}

    def _write_cases(self, rows: Sequence[Row]) -> None:
        """One line for every case and channel."""
        columns = ["case", "group", "in_distribution", "channel", *METRICS, "oodm", "threshold", "is_ood", "error"]
        if any("shares" in row for row in rows):
            columns.append("share")
        columns += ["p_value", "expected_dice", "expected_dice_low", "reasons"]
        lines = [
            row | {"channel": channel, "share": _share(row, channel)} | metrics | (row.get("result") or {})
            for row in rows
            for channel, metrics in row.get("metrics", {"": {}}).items()
        ]
        write_csv(lines, columns, self.output_dir / "cases.csv")

    @sparing("the figures of the evaluation")
    def _draw(
        self, inside: Sequence[Row], outside: Sequence[Row], bank: SignatureBank, detection: Mapping[str, Any]
    ) -> None:
        """Signature curves, OODM histograms, ROC and reliability diagram, each where its data exist."""
        everything = [*inside, *outside]
        groups: dict[str, list[NDArray[np.float64]]] = {"training": list(bank.signatures)}
        for row in (row for row in everything if "signature" in row):
            groups.setdefault(str(row.get("group", "in_distribution")), []).append(np.asarray(row["signature"]))
        draw_signatures(
            {name: np.stack(rows) for name, rows in groups.items()},
            self.output_dir / "signatures.png",
            layers=bank.layer_sizes,
            spreads=bank.settings.signature_form == "full",
        )
        scores = self._scores(inside)
        scores |= {f"{name} (OOD)" if name in scores else name: v for name, v in self._scores(outside).items()}
        if scores:
            draw_scores(scores, bank.threshold, self.output_dir / "oodm.png")
        negatives = [score for values in self._scores(inside).values() for score in values]
        curves = {}
        for name, positives in self._scores(outside).items() if negatives else ():
            false_rates, true_rates, _ = roc_curve([0] * len(negatives) + [1] * len(positives), negatives + positives)
            curves[name] = (false_rates, true_rates, detection[name]["auc"])
        if curves:
            draw_roc(curves, self.output_dir / "roc.png")
        bins = [np.asarray(row["calibration_bins"]) for row in inside if "calibration_bins" in row]
        if bins:
            draw_reliability(np.sum(bins, axis=0), self.output_dir / "reliability.png")

    def _log(self, report: Mapping[str, Any]) -> None:
        """The figures a user looks for first."""
        rows = self.recorder.rows
        for line in [*result_lines(report, unit=distance_unit_of(rows)), *notes_on_labels(rows)]:
            logger.info("%s", line)
        logger.info("results written to %s%s", self.output_dir, skipped_note(self.output_dir))
