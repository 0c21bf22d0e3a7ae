"""Commands for users: train on data, evaluate, segment scans, export a network, all without paths of configs."""

from .evaluate import evaluate_on
from .export import export_network
from .segment import segment_scans
from .train import train_on

__all__ = ["evaluate_on", "export_network", "segment_scans", "train_on"]
