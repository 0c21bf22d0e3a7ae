"""Scales intensities by percentiles of the foreground: of a volume, or of all slices of a patient."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import ConfigError
from .patients import landmarks_of

PERCENTILES = (1.0, 99.0)
"""Percentiles of the foreground that become 0 and 1."""


def scale_between(image: Tensor, limits: Tensor) -> Tensor:
    """Returns an image, each channel scaled so that its limits become 0 and 1; what lies below 0 becomes 0, as air is.

    Args:
        image: Image ``(C, H, W[, D])``, float.
        limits: Lower and upper limit of every channel, ``(C, 2)``; where both are equal, the channel is only shifted.
    """
    low, high = (limits[:, end].reshape(-1, *[1] * (image.ndim - 1)) for end in (0, 1))
    return ((image - low) / torch.where(high > low, high - low, 1.0)).clamp(min=0)


class ScaleByPercentilesd(MapTransform):
    """Scales every channel between two percentiles of its foreground, which is what lies above the channel's minimum.

    Of a slice, these are percentiles over all slices of its patient, see :func:`landmarks_of`. So a slice at the edge
    of a head, or one with a bright tumour, keeps its place on the patient's scale.

    Args:
        keys: Keys of the images ``(C, H, W[, D])``.
        percentiles: Lower and upper percentile, 0 to 100, that become 0 and 1. Default 1 and 99.

    Raises:
        ConfigError: When the percentiles are not two rising numbers from 0 to 100.
    """

    def __init__(self, keys: KeysCollection, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(keys)
        self.percentiles = [float(number) for number in percentiles]
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles is {list(percentiles)}; accepted are two rising numbers from 0 to 100")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with scaled images."""
        scaled = dict(data)
        shares = [number / 100 for number in self.percentiles]
        for key in self.key_iterator(scaled):
            scaled[key] = scale_between(scaled[key], landmarks_of(scaled, scaled[key], shares))
        return scaled
