"""Handlers of the training and evaluation engines."""

from .attach import Attach
from .board import MovableWriter
from .checkpoint import BestWeights, TrainingCheckpoint
from .history import TrainingHistory
from .log import EpochStatsHandler
from .recorder import CaseRecorder, OODReport
from .reproducibility import EpochSeeder
from .schedule import PlateauSchedule

__all__ = [
    "Attach",
    "BestWeights",
    "CaseRecorder",
    "EpochSeeder",
    "EpochStatsHandler",
    "MovableWriter",
    "OODReport",
    "PlateauSchedule",
    "TrainingCheckpoint",
    "TrainingHistory",
]
