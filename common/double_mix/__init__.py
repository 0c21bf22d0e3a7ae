"""Trains two networks together with class weights and mixed pseudo labels, and holds what that is compared with."""

from .census import ClassCensus
from .checks import CoTrainingPreflight
from .history import ClassWeightHistory
from .loader import HalvesLoader, HalvesSampler
from .losses import WeightedDiceLoss, WeightedSegmentationLoss, weighted_cross_entropy
from .methods import make_step
from .mixing import Mixing, double_mix, make_mixing
from .network import CoTrainedPair, SingleStudent
from .quality import PseudoLabelQuality
from .step import CoTrainingStep, GaussianRamp

__all__ = [
    "ClassCensus",
    "ClassWeightHistory",
    "CoTrainedPair",
    "CoTrainingPreflight",
    "CoTrainingStep",
    "GaussianRamp",
    "HalvesLoader",
    "HalvesSampler",
    "Mixing",
    "PseudoLabelQuality",
    "SingleStudent",
    "WeightedDiceLoss",
    "WeightedSegmentationLoss",
    "double_mix",
    "make_mixing",
    "make_step",
    "weighted_cross_entropy",
]
