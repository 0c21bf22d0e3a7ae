"""Defines the networks of the bundles."""

from .dense_skip_unet import DenseSkipUNet
from .encoders import encoder_network
from .headed_unet import HeadedUNet
from .slicewise import SliceWise

__all__ = [
    "DenseSkipUNet",
    "HeadedUNet",
    "SliceWise",
    "encoder_network",
]
