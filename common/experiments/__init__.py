"""Compares methods and detectors: runs configs over grids, writes tables, paired tests and figures."""

from .detectors import DetectorComparison
from .learning_curve import LearningCurve
from .methods import MethodComparison
from .mining_grid import Experiment
from .runs import RunComparison

__all__ = [
    "DetectorComparison",
    "Experiment",
    "LearningCurve",
    "MethodComparison",
    "RunComparison",
]
