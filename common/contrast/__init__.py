"""Trains by class-wise contrast: frames that show the same classes are brought together, scale by scale."""

from .checks import ContrastivePreflight, weak_frames
from .figures import FrameFigures
from .heads import HeadedNetwork, ProjectionHead, captured
from .loader import PairBatchSampler, PairLoader
from .losses import byol_loss, positive_pairs, presence_loss, simclr_loss, supervised_contrastive_loss
from .methods import METHODS, Method, find_method, pairs_by_class, pretraining_epochs, uses_views
from .presence import PresenceReader, frames_to_learn
from .split import ClasswiseSplit, draw_frames
from .step import ContrastiveStep
from .two_step import StepChange

__all__ = [
    "METHODS",
    "ClasswiseSplit",
    "ContrastivePreflight",
    "ContrastiveStep",
    "FrameFigures",
    "HeadedNetwork",
    "Method",
    "PairBatchSampler",
    "PairLoader",
    "PresenceReader",
    "ProjectionHead",
    "StepChange",
    "byol_loss",
    "captured",
    "draw_frames",
    "find_method",
    "frames_to_learn",
    "pairs_by_class",
    "positive_pairs",
    "presence_loss",
    "pretraining_epochs",
    "simclr_loss",
    "supervised_contrastive_loss",
    "uses_views",
    "weak_frames",
]
