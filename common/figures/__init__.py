"""Draws pictures of results, PNG by matplotlib."""

from .comparisons import draw_bars, draw_named_points, draw_scatter, draw_table
from .curves import draw_curves, draw_gates, draw_history, draw_learning_curves
from .judgments import draw_reliability, draw_roc, draw_scores, draw_signatures
from .slices import draw_gallery, draw_maps, draw_overlays, draw_side_by_side, draw_uncertainty

__all__ = [
    "draw_bars",
    "draw_curves",
    "draw_gallery",
    "draw_gates",
    "draw_history",
    "draw_learning_curves",
    "draw_maps",
    "draw_named_points",
    "draw_overlays",
    "draw_reliability",
    "draw_roc",
    "draw_scatter",
    "draw_scores",
    "draw_side_by_side",
    "draw_signatures",
    "draw_table",
    "draw_uncertainty",
]
