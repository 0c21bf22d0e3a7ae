"""Commands for users: a training from data, and a segmentation of scans, without paths of configs."""

from .segment import segment_scans
from .train import train_on

__all__ = ["segment_scans", "train_on"]
