"""Damages in-distribution images to measure what a detector notices and what it costs in Dice.

Every function takes an image that is normalized already; noise is in units of its standard deviation, but for that of
low dose, which is in Hounsfield units.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import GaussianSmooth, MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError
from .kspace import add_ghost, add_spikes, move, ring

Damage = Callable[..., Tensor]
"""Takes an image and the generator of what is drawn."""


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


def resample(image: Tensor, _generator: torch.Generator, *, factor: float) -> Tensor:
    """Resamples to voxels ``factor`` times as long along every axis and back, linearly, without averaging first."""
    mode = "trilinear" if image.ndim == 4 else "bilinear"
    coarse = [max(1, round(size / factor)) for size in image.shape[1:]]
    small = interpolate(image[None], size=coarse, mode=mode)
    return _keep_contrast(interpolate(small, size=image.shape[1:], mode=mode)[0], image)


def add_low_dose_noise(
    image: Tensor,
    generator: torch.Generator,
    *,
    hounsfield: float,
    hounsfield_window: Sequence[float] = (-1000, 1000),
    sigma: float = 0.7,
) -> Tensor:
    """Adds the noise of a CT of low dose: Gaussian, correlated over neighboring voxels of a slice, not between slices.

    Noise is added to the image, not to the projections: there are no streaks.

    Args:
        image: CT ``(C, H, W[, D])``, scaled so that ``hounsfield_window`` is [0, 1].
        generator: Generator of the noise.
        hounsfield: Standard deviation of the noise in Hounsfield units.
        hounsfield_window: Hounsfield units that 0 and 1 of the image stand for. Default -1000 and 1000.
        sigma: Standard deviation, in voxels, of the Gaussian that correlates the noise in a slice. Default 0.7.
    """
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    in_plane = (sigma, sigma, 0.0)[: image.ndim - 1]
    smooth = torch.as_tensor(GaussianSmooth(in_plane)(noise))
    low, high = hounsfield_window
    return image + smooth / smooth.std() * (hounsfield / (high - low))


def crop_field(image: Tensor, _generator: torch.Generator, *, share: float) -> Tensor:
    """Keeps the central ``share`` of every axis, as a smaller field of view; a label must be cropped with it."""
    places = []
    for size in image.shape[1:]:
        kept = max(1, round(size * share))
        places.append(slice((size - kept) // 2, (size - kept) // 2 + kept))
    return image[(slice(None), *places)]


def add_ringing(image: Tensor, _generator: torch.Generator, *, alpha: float) -> Tensor:
    """Cuts off high frequencies, see :func:`~.kspace.ring`."""
    return _keep_contrast(ring(image, alpha=alpha), image)


def add_stripes(image: Tensor, generator: torch.Generator, *, strength: float, number: int) -> Tensor:
    """Adds spikes in frequency space, see :func:`~.kspace.add_spikes`."""
    return _keep_contrast(add_spikes(image, generator, strength=strength, number=number), image)


def add_ghosting(image: Tensor, _generator: torch.Generator, *, strength: float) -> Tensor:
    """Adds a ghost at half the field of view, see :func:`~.kspace.add_ghost`."""
    return _keep_contrast(add_ghost(image, strength=strength), image)


def add_motion(image: Tensor, _generator: torch.Generator, *, voxels: float, share: float) -> Tensor:
    """Shifts the patient during the scan, see :func:`~.kspace.move`."""
    return _keep_contrast(move(image, voxels=voxels, share=share), image)


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
    "thick_slices_2": partial(thicken_slices, factor=2),
    "thick_slices_3": partial(thicken_slices, factor=3),
    "resampling_2": partial(resample, factor=2.0),
    "bias_field": partial(add_bias_field, low=0.5, high=1.5),
    "gibbs_0.5": partial(add_ringing, alpha=0.5),
    "gibbs_0.7": partial(add_ringing, alpha=0.7),
    "spikes": partial(add_stripes, strength=0.5, number=2),
    "ghosting": partial(add_ghosting, strength=0.4),
    "motion": partial(add_motion, voxels=4.0, share=0.4),
    "low_dose_40": partial(add_low_dose_noise, hounsfield=40.0),
    "low_dose_80": partial(add_low_dose_noise, hounsfield=80.0),
    "crop": partial(crop_field, share=0.75),
    "flip": flip_left_right,
}
"""Name of a damage -> function; what the evaluation's ``damages`` accepts. Those of low dose are for CT alone."""

MOVING = ("crop", "flip")
"""Damages that move or cut anatomy, so that the label goes with the image."""

HOUNSFIELD = ("low_dose_40", "low_dose_80")
"""Damages whose strength is in Hounsfield units."""


class DamageScand(MapTransform):
    """Applies the damage that a case names under ``damage``, the same for the same case; cases without one pass.

    Args:
        keys: Keys of the images.
        label_key: Key of the label, which follows where anatomy is moved. Default ``label``.
        seed: Seed of what is drawn, such as noise, a whole number. Default 0.
        hounsfield_window: Hounsfield units that 0 and 1 of a CT stand for, for noise of low dose. Default -1000 and
            1000.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        seed: int = 0,
        hounsfield_window: Sequence[float] = (-1000, 1000),
    ) -> None:
        super().__init__(keys)
        self.label_key, self.seed, self.hounsfield_window = label_key, seed, tuple(hounsfield_window)

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
        damage = DAMAGES[str(name)]
        if name in HOUNSFIELD:
            damage = partial(damage, hounsfield_window=self.hounsfield_window)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{damaged.get('case')}|{name}".encode()) + self.seed)
        moved = [self.label_key] if name in MOVING and self.label_key in damaged else []
        for key in [*self.key_iterator(damaged), *moved]:
            image = torch.as_tensor(damaged[key]).clone()
            damaged[key] = convert_to_dst_type(damage(image, generator), damaged[key])[0]
        return damaged


def _keep_contrast(changed: Tensor, image: Tensor) -> Tensor:
    """Scales to the standard deviation of the undamaged image, as normalizing after the damage would."""
    return changed * (image.std() / changed.std())
