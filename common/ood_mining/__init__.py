"""Mines negative samples from the training set itself (Med-OoD)."""

from .comparison import BaselineComparison
from .counting import patch_signs
from .loss import CombinedDiceLoss, prepare_patches
from .mine import CandidateMiner
from .patches import PatchDataset
from .proportion import estimate_ood_fraction, exact_ood_fraction, positive_negative_ratio
from .removal import removal_weights, remove_foreground
from .scoring import confusion_score, rank_candidates, removed_share, score_batches
from .selection import draw_selection, select_candidates
from .training import StagedTraining

__all__ = [
    "BaselineComparison",
    "CandidateMiner",
    "CombinedDiceLoss",
    "PatchDataset",
    "StagedTraining",
    "confusion_score",
    "draw_selection",
    "estimate_ood_fraction",
    "exact_ood_fraction",
    "patch_signs",
    "positive_negative_ratio",
    "prepare_patches",
    "rank_candidates",
    "removal_weights",
    "remove_foreground",
    "removed_share",
    "score_batches",
    "select_candidates",
]
