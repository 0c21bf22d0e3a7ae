"""Writes the page and the figure of the gates from their two tables alone, so that anyone gets the same."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDataError
from ..figures import draw_gates
from ..figures.curves import GateCurve
from ..runtime.files import write_atomically

GATES, CURVES, PAGE, FIGURE = "gates.csv", "gates_curves.csv", "gates.md", "gates.png"

GATE_COLUMNS = (
    "dataset", "network", "resolution", "iterations", "seconds", "metric", "value", "floor",
    "gate", "patients", "settings", "data",
)  # fmt: skip
"""``seconds`` are those of the training, validations included; ``patients`` counts those of the test set; ``settings``
and ``data`` are digests of what the gate says and of the files that it reads."""

CURVE_COLUMNS = ("dataset", "network", "iterations", "seconds", "metric", "value", "gate")
"""One row for each validation; ``seconds`` are those of the training so far."""

GAIN = 0.01
"""Gain of the validation over the last third of a training from which on it has not converged."""

HEAD = ("data set", "network", "resolution", "iterations", "minutes", "metric", "test patients", "value", "floor",
        "reached", "converged")  # fmt: skip

TEXT = """# Gates: plain training with all labels

Before methods are compared, the plain network is trained with all labels: the same data, resolution, optimizer and
augmentation, on one core. A gate holds where the network reaches its floor on patients that it never saw, and has
converged: over the last third of the training, the best validation gained less than {gain}.

{table}

`dsc` is the mean over the patients of the test set of the mean Dice over classes; `dsc_pooled` is the Dice over all
voxels of the test set together. An empty floor means that nothing is published to go by. Minutes are those of the
training with its validations. A rate that declines to zero always gains a little at the end.

{notes}![Validation Dice of every gate over iterations and minutes, with its test value and floor](gates.png)

`bundles/gates.json` says what each gate trains. This runs those without a row, and writes `gates.csv`,
`gates_curves.csv`, this page and the figure; a run that was killed goes on:

```bash
MEDICAL_DATA_DIR=data python -m common gate --processes 2
```

`python -m common gate hippocampus_mri` runs one gate, `--page_only` none.
"""


def read_table(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns the rows of a CSV, all cells as texts; none where there is no file.

    Args:
        path: Path of the CSV.
        columns: Names of the columns that it must have.

    Raises:
        MissingDataError: When a column is missing.
    """
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        missing = [name for name in columns if name not in (table.fieldnames or ())]
        if missing:
            raise MissingDataError(f"{path} has no column {missing[0]!r}; remove it, or take the committed one")
        return list(table)


def gain_at_end(curve: Sequence[Mapping[str, Any]]) -> float:
    """Returns by how much the best validation rose over the last third of the iterations; NaN without one before.

    Args:
        curve: Validations of a training, each with ``iterations`` and ``value``.

    Example:
        >>> gain_at_end([{"iterations": n, "value": v} for n, v in ((10, 0.5), (20, 0.6), (30, 0.6875))])
        0.0875
    """
    points = [(float(row["iterations"]), float(row["value"])) for row in curve]
    end = max((place for place, _ in points), default=0.0)
    before = [value for place, value in points if place <= 2 / 3 * end]
    return round(max(value for _, value in points) - max(before), 6) if before else math.nan


def describe_gate(row: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line that tells whether a gate holds.

    Args:
        row: Row of the gate, with :data:`GATE_COLUMNS`.
        curve: Its validations, with :data:`CURVE_COLUMNS`.
    """
    reached, gain = _reached(row), gain_at_end(curve)
    floor = {"": "no floor", "yes": f"floor {row['floor']} reached", "no": f"floor {row['floor']} NOT reached"}[reached]
    ending = "converged" if gain < GAIN else "NOT converged"
    minutes = float(row["seconds"]) / 60
    return (
        f"gate {row['gate']}: {row['metric']} {float(row['value']):.3f}, {floor}; {ending} (validation gained "
        f"{gain:.4f} over the last third); {row['iterations']} iterations, {minutes:.1f} minutes"
    )


def gates_page(docs: str | Path, notes: Mapping[str, str] | None = None) -> str:
    """Returns the page, as Markdown.

    Args:
        docs: Folder of ``gates.csv`` and ``gates_curves.csv``.
        notes: What is to be said of a gate, by its name. Default nothing.

    Raises:
        MissingDataError: When a column is missing.
    """
    curves = _curves(docs)
    rows = [_cells(row, curves.get(row["gate"], [])) for row in read_table(Path(docs, GATES), GATE_COLUMNS)]
    lines = [f"| {' | '.join(cells)} |" for cells in [HEAD, ["---"] * len(HEAD), *rows]]
    said = "".join(f"- `{name}`: {note}\n" for name, note in (notes or {}).items() if note)
    return TEXT.format(gain=GAIN, table="\n".join(lines), notes=f"{said}\n" if said else "")


def write_gates_page(docs: str | Path, notes: Mapping[str, str] | None = None) -> None:
    """Writes page and figure; the figure only where there is a row.

    Args:
        docs: Folder of ``gates.csv`` and ``gates_curves.csv``, and of page and figure.
        notes: What is to be said of a gate, by its name. Default nothing.

    Raises:
        MissingDataError: When a column is missing.
        OutputError: When a file cannot be written.
    """
    text = gates_page(docs, notes)
    with write_atomically(Path(docs, PAGE)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    curves, rows = _curves(docs), read_table(Path(docs, GATES), GATE_COLUMNS)
    if rows:
        panels = {f"{row['gate']}\n{row['network']}": _panel(row, curves.get(row["gate"], [])) for row in rows}
        draw_gates(panels, Path(docs, FIGURE))


def _panel(row: Mapping[str, str], curve: Sequence[Mapping[str, str]]) -> GateCurve:
    """What the figure shows of a gate."""
    points = [(float(one["iterations"]), float(one["seconds"]) / 60, float(one["value"])) for one in curve]
    return {"points": points, "value": float(row["value"]), "floor": float(row["floor"]) if row["floor"] else None}


def _curves(docs: str | Path) -> dict[str, list[dict[str, str]]]:
    """Gate -> its validations."""
    curves: dict[str, list[dict[str, str]]] = {}
    for row in read_table(Path(docs, CURVES), CURVE_COLUMNS):
        curves.setdefault(row["gate"], []).append(row)
    return curves


def _reached(row: Mapping[str, Any]) -> str:
    """Whether the floor is reached; empty without one."""
    if row["floor"] in ("", None):
        return ""
    return "yes" if float(row["value"]) >= float(row["floor"]) else "no"


def _cells(row: Mapping[str, str], curve: Sequence[Mapping[str, str]]) -> list[str]:
    """The cells of a gate in the table of the page."""
    gain = gain_at_end(curve)
    ending = "yes" if gain < GAIN else "no"
    numbers = [row["iterations"], f"{float(row['seconds']) / 60:.1f}", f"`{row['metric']}`", row["patients"]]
    value = [f"{float(row['value']):.3f}", row["floor"], _reached(row)]
    gained = "" if math.isnan(gain) else f" (+{gain:.3f})"
    return [row["dataset"], row["network"], row["resolution"], *numbers, *value, f"{ending}{gained}"]
