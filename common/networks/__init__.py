"""Networks."""

from .dense_skip_unet import DenseSkipUNet
from .encoders import encoder_network
from .headed_unet import HeadedUNet
from .pair import CoTrainedPair

__all__ = ["CoTrainedPair", "DenseSkipUNet", "HeadedUNet", "encoder_network"]
