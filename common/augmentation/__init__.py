"""Augments whole batches of images and labels, in 2-D and 3-D, on the device they are on."""

from .batch import AugmentationParameters, BatchAugmentation, apply_augmentation
from .geometry import normalized_matrix, resample, rotation_matrix
from .intensity import change_gamma, change_scale
from .mixup import draw_pairs, mix_pairs
from .views import AugmentBatch

__all__ = [
    "AugmentBatch",
    "AugmentationParameters",
    "BatchAugmentation",
    "apply_augmentation",
    "change_gamma",
    "change_scale",
    "draw_pairs",
    "mix_pairs",
    "normalized_matrix",
    "resample",
    "rotation_matrix",
]
