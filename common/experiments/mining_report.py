"""The table and the figures of an experiment."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import draw_bars, draw_sweep
from ..metrics.confusion import Matrix, describe_matrices
from ..metrics.statistics import signed_rank
from ..ood_mining.comparison import flatten_measures, summarize_measures
from ..ood_mining.proportion import TARGET
from ..runtime.files import write_csv, write_json
from ..runtime.sparing import sparing

logger = logging.getLogger(__name__)

BASELINE, CONSTANT = "baseline", "all background"
COLUMNS = ("iou_pooled", "dsc_pooled", "miou_foreground", "dsc_foreground")


@dataclass(frozen=True)
class Outcome:
    """What one test of one variant found out.

    Args:
        variant: its name in the table.
        place: fold and seed.
        matrices: confusion matrices of the test cases.
        counts: further numbers of the run: ratio of patches, selected patches.
        baseline: name of the variant it is compared with; none for baselines.
    """

    variant: str
    place: tuple[int, int]
    matrices: Sequence[Matrix]
    counts: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None


def read_matrices(path: Path) -> list[Matrix]:
    """Returns the confusion matrices that a test wrote."""
    return [np.array(matrix) for matrix in json.loads(path.read_text(encoding="utf-8")).values()]


def tabulate(tests: Sequence[Outcome]) -> dict[str, Any]:
    """Returns variant -> measure -> mean, std, n over folds and seeds, and the values; and how sure the difference is.

    Beside the measures, ``runs`` names fold and seed of every value, ``confusion_matrix`` is the sum over all tests,
    and ``against_baseline`` holds Wilcoxon's signed-rank test against the baseline of the same folds and seeds.

    Args:
        tests: in any order; one that several runs share may come repeatedly.
    """
    found: dict[str, dict[tuple[int, int], Outcome]] = {}
    for test in tests:
        found.setdefault(test.variant, {})[test.place] = test
    measured = {name: {place: _measures(test) for place, test in sorted(rows.items())} for name, rows in found.items()}
    table: dict[str, Any] = {}
    for name, rows in measured.items():
        table[name] = {"runs": [list(place) for place in rows]} | summarize_measures(list(rows.values()))
        matrices = [matrix for test in found[name].values() for matrix in test.matrices]
        table[name]["confusion_matrix"] = np.sum(matrices, axis=0).tolist()
        baseline = next(iter(found[name].values())).baseline
        if baseline:
            pairs = {key: ([rows[p][key] for p in rows], [measured[baseline][p][key] for p in rows]) for key in COLUMNS}
            table[name]["against_baseline"] = {key: signed_rank(*pair) for key, pair in pairs.items()}
    return table


def _measures(test: Outcome) -> dict[str, float]:
    """All numbers of a test."""
    report = describe_matrices(test.matrices)
    report.pop("all_background")
    return flatten_measures(report) | dict(test.counts)


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Writes ``experiment.json`` and ``experiment.csv``, the log's table, ``per_class.png`` and ``miou_over_pnr.png``.

    Args:
        report: with ``table`` as :func:`tabulate` returns it, and ``swept``, whether variants differ in nothing but how
            many OoD patches they take.
        folder: of the files.

    Raises:
        OutputError: when a file cannot be written.
    """
    table: Mapping[str, Any] = report["table"]
    write_json(report, folder / "experiment.json")
    measures = list(
        dict.fromkeys(key for figures in table.values() for key in figures if "mean" in dict_of(figures, key))
    )
    columns = [f"{key} {part}" for key in measures for part in ("mean", "std")]
    rows = [
        {"variant": name, "n": len(figures["runs"])}
        | {f"{key} {part}": dict_of(figures, key).get(part) for key in measures for part in ("mean", "std")}
        for name, figures in table.items()
    ]
    write_csv(rows, ["variant", "n", *columns], folder / "experiment.csv")
    for name, figures in table.items():
        numbers = ", ".join(f"{key} {figures[key]['mean']:.4f} +- {figures[key]['std']:.4f}" for key in COLUMNS)
        logger.info("%s (n = %d): %s", name, len(figures["runs"]), numbers)
    trained = {name: figures for name, figures in table.items() if name != CONSTANT}
    _draw_classes(trained, folder / "per_class.png")
    panels = {
        key: {
            name: list(zip(figures["pnr"]["values"], figures[key]["values"], strict=True))
            for name, figures in trained.items()
        }
        for key in ("iou_pooled", "miou_foreground")
    }
    draw_sweep(
        panels, folder / "miou_over_pnr.png", mark=TARGET, joined=report["swept"],
        xlabel="positive / negative patches", ylabel="IoU on the test set",
    )  # fmt: skip


def dict_of(figures: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns what stands under a key if it is a dictionary, an empty one otherwise."""
    value = figures.get(key)
    return value if isinstance(value, dict) else {}


@sparing("per_class.png")
def _draw_classes(trained: Mapping[str, Any], path: Path) -> None:
    """The IoU of every class for every variant, as far as tests have the class."""
    first = next(iter(trained.values()))
    classes = [name.split("/")[1] for name in first if name.startswith("per_class/") and name.endswith("/iou")]
    means = {
        name: [figures[f"per_class/{label}/iou"]["mean"] for label in classes] for name, figures in trained.items()
    }
    bars = {name: [np.nan if mean is None else mean for mean in heights] for name, heights in means.items()}
    draw_bars(classes, bars, path, xlabel="class", ylabel="IoU over the test set")
