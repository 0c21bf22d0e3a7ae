"""Trains two networks together with class weights and mixed pseudo labels."""

from .census import ClassCensus
from .checks import CoTrainingPreflight
from .history import ClassWeightHistory
from .loader import HalvesLoader, HalvesSampler
from .losses import WeightedDiceLoss, WeightedSegmentationLoss, weighted_cross_entropy
from .mixing import Mixing, double_mix, make_mixing
from .network import CoTrainedPair
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
    "WeightedDiceLoss",
    "WeightedSegmentationLoss",
    "double_mix",
    "make_mixing",
    "weighted_cross_entropy",
]
