"""Holds published methods that Double-Mix is compared with, each one iteration of the same training."""

from .bcp import BCPStep

__all__ = ["BCPStep"]
