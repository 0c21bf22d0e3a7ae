"""Plans a training from its data: classes, spacing, windows, batches, intensities and length, each with its reason."""

from .command import plan_training
from .training import TrainingPlanner

__all__ = ["TrainingPlanner", "plan_training"]
