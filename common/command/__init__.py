"""Commands for users: train on data, segment scans, export a network, all without paths of configs."""

from .export import export_network
from .segment import segment_scans
from .train import train_on

__all__ = ["export_network", "segment_scans", "train_on"]
