"""Networks."""

from .dense_skip_unet import DenseSkipUNet
from .pair import CoTrainedPair

__all__ = ["CoTrainedPair", "DenseSkipUNet"]
