"""Draws coarse noise on a grid of few points, enlarges and rolls it, and adds it where the images show anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import Transform
from monai.utils import ensure_tuple_rep
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError
from .foreground import THRESHOLD, foreground_mask

NOISE_SD = 0.2
"""Standard deviation at the points of the grid, where each channel is divided by its percentile; the paper's."""

NOISE_RESOLUTION = 16
"""Points of the grid along each axis; the paper's."""


@dataclass(frozen=True)
class NoiseParameters:
    """What decides over the noise of a batch.

    Args:
        grid: Noise at the points of the grid, ``(B, C, h, w[, d])``.
        shift: Number of voxels by which each axis of each image is rolled, ``(B, D)``, of type int64.
    """

    grid: Tensor
    shift: Tensor


def coarse_noise(parameters: NoiseParameters, size: Sequence[int]) -> Tensor:
    """Returns noise given on grids enlarged to the images of a batch, and rolled.

    Holzschuh et al., MIDL 2023, section 2: noise is "sampled at a low resolution of 16x16" and enlarged by bilinear
    interpolation. It is randomly shifted "in order to prevent consistent upsampling patterns". The grid's first and
    last points lie on the image's first and last voxels; what is rolled out on one side comes in on the other.

    Axis by axis, a product with the rolled matrix of linear interpolation does both at once.

    Args:
        parameters: Noise on grids and shifts.
        size: Size of the images along each axis, in voxels.

    Returns:
        ``(B, C, *size)``, on the device of the grids.

    Example:
        >>> grid = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> coarse_noise(NoiseParameters(grid, torch.tensor([[0, 1]])), (2, 3))
        tensor([[[[1.0000, 0.0000, 0.5000],
                  [3.0000, 2.0000, 2.5000]]]])
    """
    noise = parameters.grid
    for axis, extent in enumerate(size):
        voxels = torch.arange(extent, device=noise.device)
        rolled = (voxels - parameters.shift[:, axis, None]) % extent
        weights = _linear_weights(noise.shape[2], extent, like=noise)[rolled]
        # The enlarged axis becomes the last one, so that after all axes they are in their order again.
        lines = noise.movedim(2, -1)
        noise = (lines.flatten(1, -2) @ weights.transpose(1, 2)).unflatten(1, lines.shape[1:-1])
    return noise


def _linear_weights(points: int, extent: int, *, like: Tensor) -> Tensor:
    """Weights ``(extent, points)`` of linear interpolation between points, the first and last on the edge voxels."""
    unit = torch.eye(points, dtype=like.dtype, device=like.device)
    return interpolate(unit[None], extent, mode="linear", align_corners=True)[0].T


def add_in_foreground(images: Tensor, noise: Tensor, *, foreground_threshold: float = THRESHOLD) -> Tensor:
    """Returns images with noise added in the foreground of each alone.

    Args:
        images: Images ``(B, C, H, W[, D])``, scaled.
        noise: Noise of the same shape.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
    """
    return images + noise * foreground_mask(images, foreground_threshold=foreground_threshold, channel_dim=1)


class CoarseNoise(Transform):
    """Makes batches that a denoiser learns from: images with :func:`coarse_noise` in their foreground, 2-D or 3-D.

    The parameters are drawn by :meth:`draw`, apart from their use, so that the same generator gives the same noise.

    Args:
        noise_sd: Standard deviation at the points of the grid, at least 0, one for all channels or one for each. 0.2,
            the paper's, by default.
        more_resolutions: Numbers of points of further grids, at least 1 each. The noise of all grids is added up, and
            divided by the root of their number. None by default, as in the paper.
        noise_resolution: Number of points of the grid, at least 1, one for all axes or one for each. 16, the paper's,
            by default.
        noise_per_channel: Whether every channel has noise of its own, as in the paper. True by default.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        *,
        noise_sd: float | Sequence[float] = NOISE_SD,
        noise_resolution: int | Sequence[int] = NOISE_RESOLUTION,
        more_resolutions: Sequence[int] | None = None,
        noise_per_channel: bool = True,
        foreground_threshold: float = THRESHOLD,
    ) -> None:
        if np.min(noise_sd) < 0 or np.min([np.min(noise_resolution), *(more_resolutions or [1])]) < 1:
            raise ConfigError(
                f"noise_sd is {noise_sd}, noise_resolution {noise_resolution} and more_resolutions {more_resolutions}; "
                "accepted are a standard deviation from 0 and at least one point along each axis"
            )
        self.noise_sd, self.noise_resolution, self.noise_per_channel = noise_sd, noise_resolution, noise_per_channel
        self.foreground_threshold = foreground_threshold
        self.more_resolutions = list(more_resolutions or [])

    def draw(
        self, shape: Sequence[int], generator: torch.Generator, noise_resolution: int | Sequence[int] | None = None
    ) -> NoiseParameters:
        """Returns random noise on the points of the grids, and random shifts.

        Args:
            shape: Shape of the batch, ``(B, C, H, W[, D])``.
            generator: Generator on the CPU, so that the same seed gives the same noise on every device.
            noise_resolution: Number of points of the grid in place of its own. None by default.
        """
        batch, channels, *size = shape
        points = ensure_tuple_rep(noise_resolution or self.noise_resolution, len(size))
        sd = torch.tensor(ensure_tuple_rep(self.noise_sd, channels), dtype=torch.float32)
        drawn = torch.randn(batch, channels if self.noise_per_channel else 1, *points, generator=generator)
        shifts = [torch.randint(extent, (batch,), generator=generator) for extent in size]
        return NoiseParameters(drawn * sd.reshape(-1, *[1] * len(size)), torch.stack(shifts, dim=1))

    def __call__(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Returns the batch with noisy ``image`` and, as ``label``, the images without noise.

        Args:
            batch: Tensors of the batch; ``image`` is ``(B, C, H, W[, D])``, on any device, and stays as it is.
            generator: Generator of the draw, see :meth:`draw`.
        """
        clean = batch["image"]
        noises = []
        for resolution in (self.noise_resolution, *self.more_resolutions):
            drawn = self.draw(clean.shape, generator, resolution)
            grid, shift = (part.to(clean.device, non_blocking=True) for part in (drawn.grid, drawn.shift))
            noises.append(coarse_noise(NoiseParameters(grid, shift), clean.shape[2:]))
        noise = noises[0] if len(noises) == 1 else torch.stack(noises).sum(dim=0) / len(noises) ** 0.5
        noisy = add_in_foreground(clean, noise, foreground_threshold=self.foreground_threshold)
        return {**batch, "image": noisy, "label": clean}
