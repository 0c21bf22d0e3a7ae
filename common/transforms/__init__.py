"""Loads, checks and normalizes images and labels, and saves results."""

from .augment import random_appearance, random_frame, random_orientation
from .intensity import NormalizeByModalityd
from .labels import ClassChannelsd, ClassIndicesd, DecodeMaskd, ForegroundChannelsd, LabelMapd
from .measure import MeasureSegmentationd
from .save import SaveSegmentationd
from .scan import CheckImaged, CheckLabeld, CropOODd, LoadScand

__all__ = [
    "CheckImaged",
    "CheckLabeld",
    "ClassChannelsd",
    "ClassIndicesd",
    "CropOODd",
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
