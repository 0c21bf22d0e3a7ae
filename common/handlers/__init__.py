"""Handles the events of training and evaluation engines."""

from .attach import Attach
from .averaging import AveragedWeights
from .batches import ChangeBatch
from .board import EpochBoardHandler, MovableWriter
from .buffers import BroadcastBuffers
from .checkpoint import BestWeights, TrainingCheckpoint
from .gallery import EvaluationGallery
from .history import TrainingHistory
from .log import EpochStatsHandler, RunLog
from .progress import TrainingProgress
from .recorder import CaseRecorder
from .report import OODReport
from .reproducibility import EpochSeeder
from .schedule import PlateauSchedule
from .terms import LossTerms

__all__ = [
    "Attach",
    "AveragedWeights",
    "BestWeights",
    "BroadcastBuffers",
    "CaseRecorder",
    "ChangeBatch",
    "EpochBoardHandler",
    "EpochSeeder",
    "EpochStatsHandler",
    "EvaluationGallery",
    "LossTerms",
    "MovableWriter",
    "OODReport",
    "PlateauSchedule",
    "RunLog",
    "TrainingCheckpoint",
    "TrainingHistory",
    "TrainingProgress",
]
