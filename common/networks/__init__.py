"""Networks."""

from .dense_skip_unet import DenseSkipUNet
from .encoders import encoder_network
from .pair import CoTrainedPair

__all__ = ["CoTrainedPair", "DenseSkipUNet", "encoder_network"]
