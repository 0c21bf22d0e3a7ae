"""Networks."""

from .dense_skip_unet import DenseSkipUNet

__all__ = ["DenseSkipUNet"]
