"""Damages in-distribution images to measure what a detector notices and what it costs in Dice.

Every function takes an image that is normalized already; noise is in units of its standard deviation.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import GaussianSmooth, MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError

Damage = Callable[[Tensor, torch.Generator], Tensor]


def add_noise(image: Tensor, generator: torch.Generator, *, std: float) -> Tensor:
    """Adds Gaussian noise of ``std`` to a ``(C, H, W[, D])`` image."""
    return image + std * torch.randn(image.shape, generator=generator, dtype=image.dtype)


def change_gamma(image: Tensor, _generator: torch.Generator, *, gamma: float) -> Tensor:
    """Raises the image, scaled to [0, 1], to the power ``gamma``; mean contrast stays."""
    low, high = image.min(), image.max()
    return _keep_contrast(((image - low) / (high - low)) ** gamma, image)


def invert(image: Tensor, _generator: torch.Generator) -> Tensor:
    """Makes dark voxels bright and bright ones dark."""
    return image.max() - image


def blur(image: Tensor, _generator: torch.Generator, *, sigma: float) -> Tensor:
    """Smooths with a Gaussian of ``sigma`` voxels."""
    return _keep_contrast(torch.as_tensor(GaussianSmooth(sigma)(image)), image)


def thicken_slices(image: Tensor, _generator: torch.Generator, *, factor: int) -> Tensor:
    """Averages ``factor`` neighboring slices along the last axis and interpolates back, as thick slices look."""
    size = image.shape[-1]
    groups = -(-size // factor)
    # The last group is filled up with its last slice, so that every slice stays where it was.
    filled = torch.cat([image, *[image[..., -1:]] * (groups * factor - size)], dim=-1)
    thick = filled.unflatten(-1, (groups, factor)).mean(dim=-1)
    mode = "trilinear" if image.ndim == 4 else "bilinear"
    return _keep_contrast(interpolate(thick[None], size=filled.shape[1:], mode=mode)[0][..., :size], image)


def add_bias_field(image: Tensor, _generator: torch.Generator, *, low: float, high: float) -> Tensor:
    """Multiplies by a ramp from ``low`` to ``high`` along the first axis, as a surface coil does."""
    ramp = torch.linspace(low, high, image.shape[1], dtype=image.dtype)
    return _keep_contrast(image * ramp.reshape(-1, *[1] * (image.ndim - 2)), image)


def flip_left_right(image: Tensor, _generator: torch.Generator) -> Tensor:
    """Mirrors the image along the first axis, left and right in RAS; a label must be mirrored with it."""
    return image.flip(1)


DAMAGES: dict[str, Damage] = {
    "noise_0.3": partial(add_noise, std=0.3),
    "noise_0.6": partial(add_noise, std=0.6),
    "gamma_1.5": partial(change_gamma, gamma=1.5),
    "gamma_2": partial(change_gamma, gamma=2.0),
    "inversion": invert,
    "blur_1": partial(blur, sigma=1.0),
    "blur_2": partial(blur, sigma=2.0),
    "thick_slices_3": partial(thicken_slices, factor=3),
    "bias_field": partial(add_bias_field, low=0.5, high=1.5),
    "flip": flip_left_right,
}
"""Name of a damage -> function; what the evaluation's ``damages`` accepts."""

MOVING = ("flip",)
"""Damages that move anatomy, so that the label goes with the image."""


class DamageScand(MapTransform):
    """Applies the damage that a case names under ``damage``, the same for the same case; cases without one pass.

    Args:
        keys: Keys of the images.
        label_key: Key of the label, which follows where anatomy is moved. Default ``label``.
        seed: Seed of the noise, a whole number. Default 0.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", seed: int = 0) -> None:
        super().__init__(keys)
        self.label_key, self.seed = label_key, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with damaged images.

        Raises:
            ConfigError: When there is no damage of that name.
        """
        damaged = dict(data)
        name = damaged.get("damage")
        if name is None:
            return damaged
        if name not in DAMAGES:
            raise ConfigError(f"damage {name!r} does not exist; accepted are {', '.join(DAMAGES)}")
        generator = torch.Generator().manual_seed(zlib.crc32(f"{damaged.get('case')}|{name}".encode()) + self.seed)
        moved = [self.label_key] if name in MOVING and self.label_key in damaged else []
        for key in [*self.key_iterator(damaged), *moved]:
            image = torch.as_tensor(damaged[key]).clone()
            damaged[key] = convert_to_dst_type(DAMAGES[str(name)](image, generator), damaged[key])[0]
        return damaged


def _keep_contrast(changed: Tensor, image: Tensor) -> Tensor:
    """Scales to the standard deviation of the undamaged image, as normalizing after the damage would."""
    return changed * (image.std() / changed.std())
