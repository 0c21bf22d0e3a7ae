"""Augments whole batches on their device: parameters are drawn first, as a value, and then applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from monai.transforms import Transform
from torch import Tensor

from ..errors import ConfigError
from .geometry import normalized_matrix, quarter_turn_angles, resample, rotation_matrix, rotation_planes
from .intensity import change_gamma, change_scale

Padding = Literal["border", "zeros"]


@dataclass(frozen=True)
class AugmentationParameters:
    """What is done to each image of a batch; ``None`` for what is not done at all.

    Args:
        matrix: ``(B, D, D)``, takes voxel coordinates of the result, from the center, to those of the image.
        translation: ``(B, D)``, in voxels.
        gamma: ``(B, C)``.
        gain: ``(B, C)``.
        offset: ``(B, C)``.
        noise: ``(B, C, H, W[, D])``, added.
    """

    matrix: Tensor | None = None
    translation: Tensor | None = None
    gamma: Tensor | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None
    noise: Tensor | None = None


def apply_augmentation(
    images: Tensor, parameters: AugmentationParameters, *, labels: Tensor | None = None, padding: Padding = "border"
) -> tuple[Tensor, Tensor | None]:
    """Returns augmented images and labels; labels move with their images and keep their values.

    Args:
        images: ``(B, C, H, W[, D])``, float, normalized.
        parameters: What is done to each, see :class:`BatchAugmentation`.
        labels: Class indices or binary channels of the first images, ``(L, K, H, W[, D])`` with L at most B, of any
            dtype; nearest neighbor.
        padding: What lies outside an image: ``"border"`` repeats its outermost voxels, ``"zeros"`` is 0.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    if parameters.matrix is not None and parameters.translation is not None:
        theta = normalized_matrix(parameters.matrix, parameters.translation, images.shape[2:])
        # Nothing waits for the device: the next batch is made while it computes.
        theta = theta.to(images.device, non_blocking=True)
        images = resample(images, theta, padding_mode=padding)
        labels = (
            None if labels is None else resample(labels, theta[: len(labels)], mode="nearest", padding_mode=padding)
        )
    if parameters.gamma is not None:
        images = change_gamma(images, parameters.gamma)
    if parameters.gain is not None and parameters.offset is not None:
        images = change_scale(images, parameters.gain, parameters.offset)
    if parameters.noise is not None:
        images = images + parameters.noise.to(images, non_blocking=True)
    return images, labels


class BatchAugmentation(Transform):
    """Draws and applies random changes of a batch: one resampling, one change of intensities, on the batch's device.

    All strengths are 0 by default, which leaves batches as they are, bit by bit. Uniform draws unless said otherwise.

    Args:
        spatial_dims: 2 or 3.
        flip_axes: Spatial axes, from 0, along which half of the images are mirrored; none by default, since kidneys,
            hippocampus halves and heart chambers have sides.
        quarter_turns: Whether images are also turned by multiples of 90 degrees in the plane of the first two axes,
            which must be equally long; for data without a direction, such as histology.
        rotation: Largest angle in degrees, 0 to 180; in 3-D about every axis, or one value for each axis. Batches of
            single slices are turned in the plane of the slices alone.
        scaling: Largest change of the size, as a share, from 0 and below 1; 0.2 scales by 0.8 to 1.2.
        translation: Largest shift along each axis, as a share of the extent, 0 to 1.
        gain: Largest change of the factor of all intensities, from 0 and below 1, for each channel.
        offset: Largest value added to all intensities, in units of the normalized image, from 0, for each channel.
        gamma: Largest change of the exponent, from 0; 0.3 draws exponents from 1 / 1.3 to 1.3, evenly in logarithms.
        noise: Largest standard deviation of Gaussian noise, in units of the normalized image, from 0.
        voxel_size: Size of a voxel along each axis, in any unit; rotations keep angles where voxels are not cubes.
        padding: See :func:`apply_augmentation`.
        seed: Seed of the draws of a training.

    Raises:
        ConfigError: when a strength is not accepted.
    """

    def __init__(
        self,
        spatial_dims: int,
        *,
        flip_axes: Sequence[int] = (),
        quarter_turns: bool = False,
        rotation: float | Sequence[float] = 0.0,
        scaling: float = 0.0,
        translation: float = 0.0,
        gain: float = 0.0,
        offset: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        voxel_size: Sequence[float] | None = None,
        padding: Padding = "border",
        seed: int = 0,
    ) -> None:
        self.spatial_dims, self.seed, self.padding = spatial_dims, seed, padding
        self.flip_axes, self.quarter_turns = tuple(flip_axes), quarter_turns
        axes = 1 if spatial_dims == 2 else 3
        self.rotation = tuple(rotation) if isinstance(rotation, Sequence) else (float(rotation),) * axes
        self.scaling, self.translation = scaling, translation
        self.gain, self.offset, self.gamma, self.noise = gain, offset, gamma, noise
        self.voxel_size = tuple(voxel_size) if voxel_size is not None else (1.0,) * spatial_dims
        self._check(axes)

    def _check(self, axes: int) -> None:
        """Refuses strengths out of range, by the name of the argument."""
        wrong = [axis for axis in self.flip_axes if not 0 <= axis < self.spatial_dims]
        if wrong or len(set(self.flip_axes)) < len(self.flip_axes):
            raise ConfigError(
                f"flip_axes is {list(self.flip_axes)}; accepted are different axes from 0 to {self.spatial_dims - 1}"
            )
        if len(self.rotation) != axes or not all(0 <= angle <= 180 for angle in self.rotation):
            raise ConfigError(f"rotation is {list(self.rotation)}; accepted are {axes} angle(s) from 0 to 180 degrees")
        for name, top in (("scaling", 1.0), ("gain", 1.0), ("offset", math.inf), ("gamma", math.inf)):
            if not 0 <= getattr(self, name) < top:
                raise ConfigError(f"{name} is {getattr(self, name)}; accepted are numbers from 0 and below {top:g}")
        if not 0 <= self.translation <= 1:
            raise ConfigError(f"translation is {self.translation}; accepted are shares from 0 to 1")
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"noise is {self.noise}; accepted are standard deviations from 0")
        if len(self.voxel_size) != self.spatial_dims or not all(0 < size < math.inf for size in self.voxel_size):
            raise ConfigError(f"voxel_size is {list(self.voxel_size)}; accepted are {self.spatial_dims} sizes above 0")

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> AugmentationParameters:
        """Returns random parameters for a batch.

        Args:
            shape: ``(B, C, H, W[, D])``.
            generator: On the CPU, so that the same seed gives the same parameters on every device.

        Raises:
            ConfigError: when quarter turns are asked for and the first two axes differ.
        """
        batch, channels, *size = shape
        matrix, translation = self._draw_geometry(batch, size, generator)

        def spread(strength: float) -> Tensor:
            return (torch.rand(batch, channels, generator=generator) * 2 - 1) * strength

        gamma = (spread(1.0) * math.log1p(self.gamma)).exp() if self.gamma else None
        scaled = bool(self.gain or self.offset)
        gain, offset = (1 + spread(self.gain), spread(self.offset)) if scaled else (None, None)
        noise = None
        if self.noise:
            width = torch.rand(batch, *[1] * (len(shape) - 1), generator=generator) * self.noise
            noise = torch.randn(list(shape), generator=generator) * width
        return AugmentationParameters(matrix, translation, gamma, gain, offset, noise)

    def _draw_geometry(
        self, batch: int, size: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        """Matrices and translations of a batch, or nothing where none is asked for."""
        if not (self.flip_axes or self.quarter_turns or any(self.rotation) or self.scaling or self.translation):
            return None, None
        dims = self.spatial_dims
        angles = (torch.rand(batch, len(self.rotation), generator=generator) * 2 - 1) * torch.tensor(self.rotation)
        # A single slice is turned in its own plane alone.
        angles = angles * torch.tensor([min(size[axis] for axis in plane) > 1 for plane in rotation_planes(dims)])
        turned = rotation_matrix(torch.deg2rad(angles), dims)
        spacing = torch.tensor(self.voxel_size, dtype=torch.float32)
        matrix = turned * (spacing[None, None, :] / spacing[None, :, None])
        matrix = matrix / (1 + (torch.rand(batch, 1, 1, generator=generator) * 2 - 1) * self.scaling)
        if self.quarter_turns:
            if size[0] != size[1]:
                raise ConfigError(f"quarter_turns needs equal first two axes, not {size[0]} and {size[1]}")
            turns = torch.zeros(batch, len(self.rotation))
            turns[:, -1] = torch.randint(4, (batch,), generator=generator)
            matrix = matrix @ rotation_matrix(quarter_turn_angles(turns), dims).round()
        signs = torch.ones(batch, dims)
        for axis in self.flip_axes:
            signs[:, axis] = 1 - 2 * torch.randint(2, (batch,), generator=generator)
        extent = torch.tensor(list(size), dtype=torch.float32)
        shift = (torch.rand(batch, dims, generator=generator) * 2 - 1) * self.translation * extent
        return matrix * signs[:, None, :], shift

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the augmented images and labels, see :meth:`draw` and :func:`apply_augmentation`."""
        parameters = self.draw(images.shape, generator)
        return apply_augmentation(images, parameters, labels=labels, padding=self.padding)
