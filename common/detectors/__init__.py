"""Holds detectors of out-of-distribution scans behind one interface, with the network passes that they share."""

from .catalog import SIGNATURES, Catalog, DetectorCatalog, SignatureForm
from .cost import measure_cost
from .dknn import DeepNearestNeighbors
from .histogram import intensity_histogram
from .interface import Case, Detector, OwnValue, Rule
from .outputs import class_logits, energy, foreground_entropy, negative_max_logit, softmax_uncertainty
from .passes import DropoutPasses, EnsemblePasses, OdinPass, OwnNetworkPass
from .pooling import FeaturePooling
from .rules import ClassMahalanobis, KNearest, LayeredSignatureDistance, PCAMahalanobis, PCANearest, SignatureDistance
from .scan import Measure, Scan

__all__ = [
    "SIGNATURES",
    "Case",
    "Catalog",
    "ClassMahalanobis",
    "DeepNearestNeighbors",
    "Detector",
    "DetectorCatalog",
    "DropoutPasses",
    "EnsemblePasses",
    "FeaturePooling",
    "KNearest",
    "LayeredSignatureDistance",
    "Measure",
    "OdinPass",
    "OwnNetworkPass",
    "OwnValue",
    "PCAMahalanobis",
    "PCANearest",
    "Rule",
    "Scan",
    "SignatureDistance",
    "SignatureForm",
    "class_logits",
    "energy",
    "foreground_entropy",
    "intensity_histogram",
    "measure_cost",
    "negative_max_logit",
    "softmax_uncertainty",
]
