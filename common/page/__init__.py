"""Writes ``report.html``: verdicts for people who look, in one file that needs no network."""

from .document import PAGE, write_page
from .origin import read_origin
from .table import FigureTable
from .thumbnail import thumbnail, thumbnail_limit

__all__ = ["PAGE", "FigureTable", "read_origin", "thumbnail", "thumbnail_limit", "write_page"]
