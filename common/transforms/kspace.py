"""Simulates what goes wrong while a scanner samples frequencies: ringing, spikes, ghosts and motion.

Every function takes and returns a normalized image ``(C, H, W[, D])``.
"""

from __future__ import annotations

import math

import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise
from torch import Tensor

PHASE_AXIS = 1
"""Axis of a ``(C, H, W[, D])`` image along which frequencies are sampled line after line."""


def ring(image: Tensor, *, alpha: float) -> Tensor:
    """Cuts off high frequencies, so that edges ring (Gibbs), as MONAI's ``GibbsNoise`` does.

    Args:
        image: Image ``(C, H, W[, D])``.
        alpha: Strength in [0, 1]; 0 keeps all frequencies, 1 none but the mean.
    """
    return torch.as_tensor(GibbsNoise(alpha)(image)).to(image.dtype)


def add_spikes(image: Tensor, generator: torch.Generator, *, strength: float, number: int = 1) -> Tensor:
    """Adds stripes: spikes at random frequencies, as MONAI's ``KSpaceSpikeNoise`` does.

    Args:
        image: Image ``(C, H, W[, D])``.
        generator: Generator of the places.
        strength: Amplitude of each stripe, at least 0, in standard deviations of the image.
        number: Number of spikes, at least 1. Default 1.
    """
    shape = image.shape[1:]
    # A wave of amplitude 1 over N voxels has a frequency of magnitude N.
    magnitude = math.log(strength * float(image.std()) * math.prod(shape))
    # The inner half of the frequencies: stripes that are wider than two voxels.
    places = [
        tuple(int(size * (0.25 + 0.5 * torch.rand((), generator=generator))) for size in shape) for _ in range(number)
    ]
    return torch.as_tensor(KSpaceSpikeNoise(places, [magnitude] * number)(image)).to(image.dtype)


def add_ghost(image: Tensor, *, strength: float) -> Tensor:
    """Adds a ghost at half the field of view: every other line of frequencies is weaker, as with a pulsing source.

    Args:
        image: Image ``(C, H, W[, D])``; the ghost is shifted along the first spatial axis.
        strength: Share by which every other line is weaker, in [0, 1]; the ghost has half of it.
    """
    lines = torch.fft.fft(image.double(), dim=PHASE_AXIS)
    weaker = torch.ones(image.shape[PHASE_AXIS], dtype=torch.float64)
    weaker[1::2] = 1 - strength
    return torch.fft.ifft(lines * _along(weaker, image), dim=PHASE_AXIS).real.to(image.dtype)


def move(image: Tensor, *, voxels: float, share: float) -> Tensor:
    """Shifts the patient while frequencies are sampled: the last lines show the image after the shift.

    Args:
        image: Image ``(C, H, W[, D])``; the shift goes along the first spatial axis.
        voxels: Shift in voxels.
        share: Share of the lines, in [0, 1], that is sampled after the shift; lines go from the lowest negative to the
            highest positive frequency.
    """
    size = image.shape[PHASE_AXIS]
    frequencies = torch.fft.fftfreq(size, dtype=torch.float64)
    late = torch.fft.ifftshift(torch.arange(size) >= round(size * (1 - share)))
    phases = torch.where(
        late, torch.polar(torch.ones(size, dtype=torch.float64), -2 * math.pi * frequencies * voxels), 1.0
    )
    lines = torch.fft.fft(image.double(), dim=PHASE_AXIS) * _along(phases, image)
    # A scanner shows magnitudes; an image whose air is below 0 would fold, so the real part is kept.
    return torch.fft.ifft(lines, dim=PHASE_AXIS).real.to(image.dtype)


def _along(values: Tensor, image: Tensor) -> Tensor:
    """Values of the lines, shaped to multiply an image."""
    return values.reshape(-1, *[1] * (image.ndim - 2))
