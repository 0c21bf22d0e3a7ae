"""Shows an evaluation as a page: cases with their verdicts and Dice, tables of metrics, and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.segmentation import MM, metric_title
from ..page import PAGE, FigureTable, write_page
from ..spectral import SignatureBank
from .evaluation_table import distance_unit_of, notes_on_labels

FIGURES = ("oodm.png", "roc.png", "signatures.png", "reliability.png", "gallery.png")
"""Pictures that an evaluation draws."""

RATES = ("auc", "accuracy", "sensitivity", "specificity", "fpr_at_95_tpr")


def write_evaluation_page(
    rows: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    bank: SignatureBank,
    output_dir: Path,
    *,
    thumbnails: Sequence[str] = (),
    metadata_file: str | None = None,
    class_names: Mapping[str, str] | None = None,
) -> None:
    """Writes ``report.html`` on an evaluation, see :func:`~..page.write_page`.

    Args:
        rows: Rows of the recorder, one for each case.
        report: Content of ``metrics.json``.
        bank: Bank that judged the cases.
        output_dir: Folder of the page, which holds the figures.
        thumbnails: Small pictures of the cases, in their order. Default none.
        metadata_file: File ``configs/metadata.json`` of the bundle. Default none.
        class_names: Index of a class, as a text -> its name, in place of those of the metadata. Default none.
    """
    shown = [_page_row(row, picture) for row, picture in zip_longest(rows, thumbnails[: len(rows)])]
    write_page(
        shown,
        bank,
        output_dir / PAGE,
        metadata_file=metadata_file,
        class_names=class_names,
        figures=[output_dir / name for name in FIGURES],
        tables=evaluation_tables(report, unit=distance_unit_of(rows), note=" ".join(notes_on_labels(rows))),
    )


def evaluation_tables(report: Mapping[str, Any], *, unit: str = MM, note: str = "") -> list[FigureTable]:
    """Returns the tables of an evaluation: segmentation in and out of distribution, and detection; those with lines.

    Args:
        report: Content of ``metrics.json``.
        unit: Unit of distances. Default ``mm``.
        note: What is to be known of the segmentation out of distribution. Default nothing.
    """
    header = ("metric", "class", "mean", "standard deviation", "n")
    tables = [
        FigureTable("Segmentation", header, _segmentation_lines(report["segmentation"], unit)),
        FigureTable(
            "Segmentation, out of distribution",
            header,
            _segmentation_lines(report["segmentation_out_of_distribution"], unit),
            note,
        ),
        FigureTable(
            "Detection (positive: out of distribution)",
            ("scans", *(name.replace("_", " ") for name in RATES)),
            [(group, *(figures.get(name) for name in RATES)) for group, figures in report["detection"].items()],
        ),
    ]
    return [table for table in tables if table.lines]


def _segmentation_lines(report: Mapping[str, Any], unit: str) -> list[tuple[Any, ...]]:
    """A line for each metric and, where there are several, each class."""
    lines: list[tuple[Any, ...]] = []
    for metric, figures in report.items():
        classes = figures["per_class"] if len(figures["per_class"]) > 1 else {}
        for name, found in {"all": figures, **classes}.items():
            lines.append((metric_title(metric, unit), name, found["mean"], found["std"], found["n"]))
    return lines


def _page_row(row: Mapping[str, Any], thumbnail: str | None) -> dict[str, Any]:
    """What the page shows of a case."""
    result = row.get("result") or {}
    channels = [channel["dsc"] for channel in row.get("metrics", {}).values() if not math.isnan(channel["dsc"])]
    return {
        **result,
        "image": str(row.get("case", "")),
        "group": row.get("group"),
        "dsc": float(np.mean(channels)) if channels else None,
        "error": row.get("error", result.get("reason")),
        "thumbnail": thumbnail,
    }
