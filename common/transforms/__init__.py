"""Transforms: loading and checking, normalization, labels, verdict, metrics, saving."""

from .augment import random_appearance, random_frame, random_orientation
from .intensity import NormalizeByModalityd
from .labels import ClassChannelsd, ClassIndicesd, DecodeMaskd, ForegroundChannelsd, LabelMapd
from .loading import CaseLoading
from .measure import MeasureSegmentationd
from .save import SaveSegmentationd
from .scan import CheckImaged, CheckLabeld, CropStranged, LoadScand

__all__ = [
    "CaseLoading",
    "CheckImaged",
    "CheckLabeld",
    "ClassChannelsd",
    "ClassIndicesd",
    "CropStranged",
    "DecodeMaskd",
    "ForegroundChannelsd",
    "LabelMapd",
    "LoadScand",
    "MeasureSegmentationd",
    "NormalizeByModalityd",
    "SaveSegmentationd",
    "random_appearance",
    "random_frame",
    "random_orientation",
]
