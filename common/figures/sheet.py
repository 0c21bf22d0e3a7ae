"""Opens the sheet that every picture is drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from ..runtime.files import write_atomically
from .style import BESIDE, DASHES, DPI, SERIES, SMALL, TINY, area_color, log_ticks, outline_look

MARGIN = 0.03
"""Share of a logarithmic axis that is left free at each end."""


@contextmanager
def open_sheet(
    path: str | Path, columns: int = 1, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """Gives the axes of a figure and writes it as PNG at the end; no display, no global state."""
    layout = ConstrainedLayoutEngine()
    figure = Figure(figsize=size or (5.6 * columns, 4.0 * rows), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_prop_cycle(cycler(linestyle=DASHES) * cycler(color=SERIES))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    yield axes
    # The layout of one pass leaves titles of several lines too little room, and cuts them off.
    layout.execute(figure)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def whole_numbers(axis: Any) -> None:
    """Writes whole numbers alone along an ``xaxis`` or ``yaxis``, as epochs and counts are."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def logarithmic(axis: Any, low: float, high: float) -> None:
    """Makes the horizontal axis logarithmic between two values above 0, with a few round numbers and a margin."""
    margin = (high / low) ** MARGIN
    axis.set(xscale="log", xlim=(low / margin, high * margin))
    places = log_ticks(low, high)
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.xaxis.set_minor_locator(NullLocator())


def legend(axis: Any, **further: Any) -> None:
    """Names lines, bars and points of an axis, where there are any; many of them beside it, where they hide nothing."""
    number = len(axis.get_legend_handles_labels()[0])
    if number > BESIDE:
        axis.legend(fontsize=TINY, **{**further, "loc": "center left", "bbox_to_anchor": (1, 0.5)})
    elif number:
        axis.legend(fontsize=SMALL, **further)


def class_legend(axis: Any, names: Mapping[int, str], *, outlined: bool = False) -> None:
    """Names the areas or the outlines of classes, by their numbers, below all pictures of the sheet."""
    handles: list[Artist] = []
    for number, name in names.items():
        color, dashes = outline_look(number)
        outline = Line2D([], [], color=color, linestyle=dashes, label=name)
        handles.append(outline if outlined else Patch(color=area_color(number), label=name))
    if handles:
        axis.figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=SMALL)
