"""Describes a scan by its intensities alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .interface import Array


def intensity_histogram(image: Tensor, *, bins: int = 150, low: float = -2.0, high: float = 10.0) -> Array:
    """Returns the share of voxels in each of ``bins`` equal bins; values outside ``[low, high]`` count at the ends.

    Intensity histogram features (IHF), Vasiliuk et al., *Limitations of Out-of-Distribution Detection in 3D Medical
    Image Segmentation*, J. Imaging 2023.

    Args:
        image: Normalized image of any shape.
        bins: Number of bins, at least 1. Default 150, the paper's.
        low: Lower end of the first bin. Default -2.
        high: Upper end of the last bin. Default 10.
    """
    counts = torch.histc(image.float().clamp(low, high).cpu(), bins=bins, min=low, max=high)
    return np.asarray(counts / counts.sum(), dtype=np.float64)
