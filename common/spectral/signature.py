"""Computes spectral signatures (Karimi and Gholipour, IEEE Trans. Artif. Intell. 4(2), 2023, section III-D)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..errors import FeatureError

SignatureForm = Literal["unit", "full"]
"""``unit`` is the paper's, of norm 1; ``full`` keeps the features' scale and tells the spread of every channel."""

EPS = 1e-7
"""Smallest singular value kept, as a share of the largest: the resolution of float32."""

EMPTY = "no voxel was added to the Gram matrix: call update first"

CHUNK = 16_384
"""Voxels converted to float64 at once, or those of one slice: few enough to stay in the cache of a core."""


def log_spectrum(singular_values: Tensor, *, eps: float = EPS) -> Tensor:
    """Returns ``v = log(max(s, eps * s_1))``, the logarithmic spectrum.

    The lower bound ``eps * s_1`` is ours: a dead channel then gives a finite signature.

    Args:
        singular_values: Singular values, ``(n,)``, not negative, largest first.
        eps: Smallest singular value kept, as a share of the largest. Default :data:`EPS`, 1e-7.

    Returns:
        The logarithms, ``(n,)`` float64.

    Raises:
        FeatureError: When the values are not finite or all zero.
    """
    values = singular_values.double()
    if not bool(torch.isfinite(values).all()):
        raise FeatureError("the feature map holds NaN or infinite values: no spectral signature exists")
    if float(values[0]) <= 0.0:
        raise FeatureError("the feature map is zero everywhere: no spectral signature exists")
    return values.clamp_min(eps * float(values[0])).log()


def log_spectrum_signature(singular_values: Tensor, *, eps: float = EPS) -> Tensor:
    """Returns ``v / ||v||``, the paper's normalized logarithmic spectrum, ``v`` as :func:`log_spectrum` gives it.

    Args:
        singular_values: Singular values, ``(n,)``, not negative, largest first.
        eps: Smallest singular value kept, as a share of the largest. Default :data:`EPS`, 1e-7.

    Returns:
        The signature, ``(n,)`` float64, of Euclidean norm 1.

    Raises:
        FeatureError: When the values are not finite or all zero, or when the logarithms are all zero.
    """
    logarithms = log_spectrum(singular_values, eps=eps)
    norm = float(logarithms.norm())
    if norm == 0.0:
        raise FeatureError("every singular value of the feature map is 1: its logarithms are zero, no signature exists")
    return logarithms / norm


class GramAccumulator:
    """Sums the ``n x n`` Gram matrix of feature maps in float64, piece by piece, without keeping the maps.

    The singular values of ``F`` (``N x n``) are the square roots of the eigenvalues of ``F^T F``. That sum runs over
    voxels, so pieces of an image may come one after the other: memory O(n^2), one pass. It agrees with a singular value
    decomposition in float64 to 1e-5. Where the smallest singular value is at least 1e-3 of the largest, it agrees to
    1e-10.

    Args:
        num_channels: Number ``n`` of channels of the feature map, at least 1.
    """

    def __init__(self, num_channels: int) -> None:
        if num_channels < 1:
            raise FeatureError(f"num_channels is {num_channels}; at least one channel is needed")
        self.num_channels = num_channels
        self.num_voxels = 0
        self._gram: Tensor | None = None
        self._sums: Tensor | None = None

    def update(self, features: Tensor) -> GramAccumulator:
        """Adds a piece of the feature map and returns the accumulator.

        Args:
            features: Piece of the feature map, ``(n, *spatial)``, of any floating type, on any device; the sum stays on
                that device.

        Raises:
            FeatureError: When the number of channels is not ``n``.
        """
        if features.ndim < 2 or features.shape[0] != self.num_channels:
            raise FeatureError(f"features have shape {tuple(features.shape)}; expected ({self.num_channels}, *spatial)")
        if self._gram is None or self._sums is None:
            self._gram = torch.zeros(self.num_channels, self.num_channels, dtype=torch.float64, device=features.device)
            self._sums = torch.zeros(self.num_channels, dtype=torch.float64, device=features.device)
        in_slice = features.shape[2:].numel()
        # The part of a window that counts is no block of memory: slices of it are copied once, straight to float64.
        for slices in features.detach().split(max(1, CHUNK // max(1, in_slice)), dim=1):
            double = slices.double().reshape(self.num_channels, -1)
            self._gram.addmm_(double, double.T)
            self._sums += double.sum(dim=1)
        self.num_voxels += features.shape[1] * in_slice
        return self

    def singular_values(self) -> Tensor:
        """Returns the singular values ``(n,)`` of everything added so far, float64, on the CPU, largest first.

        Raises:
            FeatureError: When nothing was added, or when what was added is not finite.
        """
        if self._gram is None or self.num_voxels == 0:
            raise FeatureError(EMPTY)
        gram = self._gram.cpu()
        if not bool(torch.isfinite(gram).all()):
            raise FeatureError("the feature map holds NaN or infinite values: no spectral signature exists")
        return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0).sqrt()

    def channel_spreads(self) -> Tensor:
        """Returns the standard deviation ``(n,)`` of every channel over all voxels added so far, float64, on the CPU.

        Raises:
            FeatureError: When nothing was added.
        """
        if self._gram is None or self._sums is None or self.num_voxels == 0:
            raise FeatureError(EMPTY)
        mean = self._sums.cpu() / self.num_voxels
        return (self._gram.cpu().diagonal() / self.num_voxels - mean**2).clamp_min(0.0).sqrt()

    def signature(self, per_voxel: bool = False, form: SignatureForm = "unit") -> Tensor:
        """Returns the spectral signature of everything added so far.

        Args:
            per_voxel: Whether the singular values are first divided by the square root of the number of voxels. The
                size of the image does not move the signature then. The paper does not do so. Default false.
            form: ``unit`` (the paper, and the default): the logarithmic spectrum divided by its norm, ``(n,)``.
                ``full``: the logarithmic spectrum as it is, then the logarithms of the channels' standard deviations,
                ``(2 n,)``.

        Raises:
            FeatureError: When there is no signature, see :func:`log_spectrum_signature`, or nothing was added.
        """
        values, root = self.singular_values(), math.sqrt(self.num_voxels)
        scaled = values / root if per_voxel else values
        if form == "unit":
            return log_spectrum_signature(scaled)
        # A channel that never changes counts as one that hardly does, like a dead one.
        return torch.cat([log_spectrum(scaled), self.channel_spreads().clamp_min(EPS * float(values[0]) / root).log()])


def spectral_signature(features: Tensor, *, per_voxel: bool = False) -> Tensor:
    """Returns the spectral signature of one feature map.

    Karimi and Gholipour 2023, section III-D. It is the logarithm of the singular values of the feature map, reshaped to
    voxels by channels, divided by its Euclidean norm.

    Args:
        features: Feature map, ``(n, *spatial)`` with ``n`` channels.
        per_voxel: Whether the singular values are first divided by the square root of the number of voxels. The
            paper does not divide them. Default false.

    Returns:
        ``(n,)`` float64 on the CPU, Euclidean norm 1.

    Raises:
        FeatureError: When the features are not finite, all zero, or give a logarithmic spectrum of norm zero.

    Example:
        >>> spectral_signature(torch.diag(torch.tensor([100.0, 10.0, 1.0])))
        tensor([0.8944, 0.4472, 0.0000], dtype=torch.float64)
    """
    return GramAccumulator(features.shape[0]).update(features).signature(per_voxel=per_voxel)
