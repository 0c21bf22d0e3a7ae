"""Holds published methods that Double-Mix is compared with, each one iteration of the same training."""

from .bcp import BCPStep
from .cld import CLDStep
from .dst import DSTStep
from .ssnet import SSNetStep
from .unimatch import UniMatchStep
from .views import CReSTStep, DePLStep, ViewsStep

__all__ = ["BCPStep", "CLDStep", "CReSTStep", "DSTStep", "DePLStep", "SSNetStep", "UniMatchStep", "ViewsStep"]
