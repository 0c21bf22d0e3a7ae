"""Opens the sheet that every picture is drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..runtime.files import write_atomically


@contextmanager
def open_sheet(
    path: str | Path, columns: int = 1, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """Gives the axes of a figure and writes it as PNG at the end; no display, no global state."""
    figure = Figure(figsize=size or (5.6 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.subplots(rows, columns, squeeze=False)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=120)
