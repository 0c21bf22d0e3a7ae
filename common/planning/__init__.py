"""Plans a training from its data: classes, spacing, windows, batches, intensities and length, each with its reason."""

from .command import plan_training, write_plan

__all__ = ["plan_training", "write_plan"]
