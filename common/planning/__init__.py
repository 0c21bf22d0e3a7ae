"""Plans a training from its data: classes, spacing, windows, batches, intensities and length, each with its reason."""

from .command import plan_training

__all__ = ["plan_training"]
