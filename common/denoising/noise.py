"""Draws coarse noise on a grid of few points, enlarges and rolls it, and adds it where the image shows anything."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError
from .foreground import THRESHOLD, foreground_mask

MODES = {2: "bilinear", 3: "trilinear"}


def coarse_noise(grid: Tensor, size: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Returns noise given on a grid enlarged to an image, and rolled.

    Holzschuh et al., MIDL 2023, section 2: noise is "sampled at a low resolution of 16x16" and enlarged by bilinear
    interpolation. It is randomly shifted "in order to prevent consistent upsampling patterns". The grid's first and
    last points lie on the image's first and last voxels; what is rolled out on one side comes in on the other.

    Args:
        grid: Noise at the points of the grid, ``(C, h, w[, d])``.
        size: Size of the image along each axis, in voxels.
        shift: Number of voxels by which each axis is rolled.

    Returns:
        ``(C, *size)``.

    Example:
        >>> coarse_noise(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), (2, 3), (0, 1))
        tensor([[[1.0000, 0.0000, 0.5000],
                 [3.0000, 2.0000, 2.5000]]])
    """
    enlarged = interpolate(grid[None], tuple(size), mode=MODES[len(size)], align_corners=True)[0]
    return enlarged.roll(tuple(shift), dims=tuple(range(1, enlarged.ndim)))


def add_in_foreground(image: Tensor, noise: Tensor, *, foreground_threshold: float = THRESHOLD) -> Tensor:
    """Returns an image with noise added in its foreground alone.

    Args:
        image: Image ``(C, H, W[, D])``, scaled.
        noise: Noise of the same shape.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
    """
    return image + noise * foreground_mask(image, foreground_threshold=foreground_threshold)


class RandCoarseNoised(RandomizableTransform, MapTransform):
    """Adds :func:`coarse_noise` to images, in 2-D or 3-D, in their foreground.

    The parameters are drawn by :meth:`randomize`, apart from their use, so that the same state gives the same noise.

    Args:
        keys: Keys of the images ``(C, H, W[, D])``; all of one call get the same noise.
        noise_sd: Standard deviation at the points of the grid, at least 0, one for all channels or one for each. 0.2,
            the paper's, by default.
        noise_resolution: Number of points of the grid, at least 1, one for all axes or one for each. 16, the paper's,
            by default.
        noise_per_channel: Whether every channel has noise of its own, as in the paper. True by default.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        prob: Probability of adding noise at all, in [0, 1]. 1 by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        noise_sd: float | Sequence[float] = 0.2,
        noise_resolution: int | Sequence[int] = 16,
        noise_per_channel: bool = True,
        foreground_threshold: float = THRESHOLD,
        prob: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if np.min(noise_sd) < 0 or np.min(noise_resolution) < 1:
            raise ConfigError(
                f"noise_sd is {noise_sd} and noise_resolution {noise_resolution}; accepted are a standard deviation "
                "from 0 and at least one point along each axis"
            )
        self.noise_sd, self.noise_resolution, self.noise_per_channel = noise_sd, noise_resolution, noise_per_channel
        self.foreground_threshold = foreground_threshold
        self._grid = torch.zeros(0)
        self._shift: tuple[int, ...] = ()

    def randomize(self, data: Sequence[int]) -> None:
        """Draws the noise at the points of the grid, and the shift, for an image of the shape ``data``."""
        super().randomize(None)
        channels, *size = (int(extent) for extent in data)
        points = ensure_tuple_rep(self.noise_resolution, len(size))
        drawn = self.R.standard_normal((channels if self.noise_per_channel else 1, *points)).astype(np.float32)
        sd = np.asarray(ensure_tuple_rep(self.noise_sd, channels), dtype=np.float32).reshape(-1, *[1] * len(size))
        self._grid = torch.from_numpy(drawn * sd)
        self._shift = tuple(int(self.R.randint(extent)) for extent in size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with noisy images."""
        noisy = dict(data)
        keys = list(self.key_iterator(noisy))
        if not keys:
            return noisy
        self.randomize(noisy[keys[0]].shape)
        for key in keys if self._do_transform else ():
            image: Tensor = noisy[key]
            noise = coarse_noise(self._grid.to(image.device), image.shape[1:], self._shift)
            noisy[key] = add_in_foreground(image, noise, foreground_threshold=self.foreground_threshold)
        return noisy
