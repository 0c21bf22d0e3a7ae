"""Loads, checks and normalizes images and labels, and saves results."""

from .intensity import NormalizeByModalityd, normalize_intensity
from .labels import ClassChannelsd, ClassIndicesd, DecodeMaskd, ForegroundChannelsd, KeepTensorsd, LabelMapd
from .loading import CaseLoading
from .measure import MeasureSegmentationd
from .outputs import logits_and_classes, sigmoid_and_channels, softmax_and_classes
from .padding import divisor_per_axis, pad_to_divisor
from .percentiles import ScaleByPercentilesd
from .save import SaveSegmentationd
from .scan import CheckImaged, CheckLabeld, CropOODd, LoadScand
from .spacing import to_spacing
from .standard import LandmarkLearner, MatchDecilesd

__all__ = [
    "CaseLoading",
    "CheckImaged",
    "CheckLabeld",
    "ClassChannelsd",
    "ClassIndicesd",
    "CropOODd",
    "DecodeMaskd",
    "ForegroundChannelsd",
    "KeepTensorsd",
    "LabelMapd",
    "LandmarkLearner",
    "LoadScand",
    "MatchDecilesd",
    "MeasureSegmentationd",
    "NormalizeByModalityd",
    "SaveSegmentationd",
    "ScaleByPercentilesd",
    "divisor_per_axis",
    "logits_and_classes",
    "normalize_intensity",
    "pad_to_divisor",
    "sigmoid_and_channels",
    "softmax_and_classes",
    "to_spacing",
]
