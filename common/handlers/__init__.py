"""Handlers of the training and evaluation engines."""

from .attach import Attach
from .checkpoint import BestWeights, TrainingCheckpoint
from .history import TrainingHistory
from .reproducibility import EpochSeeder
from .schedule import PlateauSchedule

__all__ = ["Attach", "BestWeights", "EpochSeeder", "PlateauSchedule", "TrainingCheckpoint", "TrainingHistory"]
