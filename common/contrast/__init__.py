"""Trains by class-wise contrast: frames that show the same classes are brought together, scale by scale."""

from .balance import LossBalance
from .checks import ContrastivePreflight, weak_frames
from .figures import FrameFigures
from .heads import HeadedNetwork, ProjectionHead, captured
from .loader import PairBatchSampler, PairLoader
from .losses import (
    byol_loss,
    overlapping_pairs,
    positive_pairs,
    presence_loss,
    simclr_loss,
    supervised_contrastive_loss,
)
from .methods import METHODS, Method, find_method, pairs_by_class, pretraining_epochs, uses_views
from .pairs import PairLoss, majority_classes, patch_contrast
from .presence import PresenceReader, frames_to_learn
from .segmentation import GeneralizedDiceFocal
from .slices import cut_volumes
from .split import ClasswiseSplit, draw_frames
from .step import ContrastiveStep
from .teaching import PresenceTeaching, decoder_presence_loss, gated_pseudo_labels, probability_of_presence
from .two_step import StepChange

__all__ = [
    "METHODS",
    "ClasswiseSplit",
    "ContrastivePreflight",
    "ContrastiveStep",
    "FrameFigures",
    "GeneralizedDiceFocal",
    "HeadedNetwork",
    "LossBalance",
    "Method",
    "PairBatchSampler",
    "PairLoader",
    "PairLoss",
    "PresenceReader",
    "PresenceTeaching",
    "ProjectionHead",
    "StepChange",
    "byol_loss",
    "captured",
    "cut_volumes",
    "decoder_presence_loss",
    "draw_frames",
    "find_method",
    "frames_to_learn",
    "gated_pseudo_labels",
    "majority_classes",
    "overlapping_pairs",
    "pairs_by_class",
    "patch_contrast",
    "positive_pairs",
    "presence_loss",
    "pretraining_epochs",
    "probability_of_presence",
    "simclr_loss",
    "supervised_contrastive_loss",
    "uses_views",
    "weak_frames",
]
