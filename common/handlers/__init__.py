"""Handles the events of training and evaluation engines."""

from .attach import Attach
from .averaging import AveragedWeights
from .balance import GradientBalance, gradient_norms
from .batches import ChangeBatch
from .board import EpochBoardHandler, MovableWriter
from .buffers import BroadcastBuffers
from .checkpoint import BestWeights, TrainingCheckpoint
from .gallery import EvaluationGallery
from .history import TrainingHistory
from .layout import ChannelsLast
from .log import EpochLog, RunLog
from .progress import TrainingProgress
from .recorder import CaseRecorder
from .report import OODReport
from .reproducibility import EpochSeeder
from .schedule import PlateauSchedule
from .terms import LossTerms
from .times import TrainingTimes, read_times

__all__ = [
    "Attach",
    "AveragedWeights",
    "BestWeights",
    "BroadcastBuffers",
    "CaseRecorder",
    "ChangeBatch",
    "ChannelsLast",
    "EpochBoardHandler",
    "EpochLog",
    "EpochSeeder",
    "EvaluationGallery",
    "GradientBalance",
    "LossTerms",
    "MovableWriter",
    "OODReport",
    "PlateauSchedule",
    "RunLog",
    "TrainingCheckpoint",
    "TrainingHistory",
    "TrainingProgress",
    "TrainingTimes",
    "gradient_norms",
    "read_times",
]
