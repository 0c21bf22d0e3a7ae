"""Describes what stands beside the features of a network: the image it sees and how sure its segmentation is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import FeatureError
from .signature import GramAccumulator, SignatureForm, log_spectrum, log_spectrum_signature

IMAGE, OUTPUT, LAYOUT = "image", "output", "layout"
PSEUDO_LAYERS = (IMAGE, OUTPUT, LAYOUT)
"""Names in ``feature_layers`` that no layer of the network is asked for: the image, the entropy of its segmentation and
how large its classes are and where they lie, see ``layout``."""

MAX_PATCHES = 65_536
"""Most neighborhoods of an image that count; of a larger image, as many are drawn, always the same."""

NOTHING_FOUND = 1.0
"""Uncertainty of a segmentation without any foreground."""

LEAST_ENTROPY = 1e-6
"""Smallest mean entropy of the foreground, in nats: hardly any network is surer."""


def neighborhoods(image: Tensor, *, max_patches: int = MAX_PATCHES) -> Tensor:
    """Returns the 3 x 3 (x 3) neighborhoods of voxels, borders repeated, as a feature map with a column for each voxel.

    Noise lives in the small singular values of this matrix, and so do sharpness and thick slices.

    Args:
        image: Image, ``(C, H, W[, D])``.
        max_patches: Most voxels that count, at least 1. Default :data:`MAX_PATCHES`, 65,536.

    Returns:
        ``(C * 3**axes, M)`` of the image's type; ``M`` is the number of voxels, or ``max_patches`` where that is less.
    """
    spatial = image.shape[1:]
    padded = pad(image[None], (1, 1) * len(spatial), mode="replicate")[0].contiguous()
    voxels = spatial.numel()
    if voxels <= max_patches:
        starts = product(range(3), repeat=len(spatial))
        shifted = [_shift(padded, start, spatial).flatten(1) for start in starts]
        return torch.stack(shifted, dim=1).flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    # In the order in which they lie in memory, and numbered there: jumping takes three times as long.
    drawn = torch.randint(voxels, (max_patches,), generator=generator).sort().values.to(image.device)
    strides = torch.tensor(padded[0].stride(), device=image.device)
    # Integers have no matrix product on CUDA.
    corners = (torch.stack(torch.unravel_index(drawn, spatial), dim=1) * strides).sum(dim=1)
    steps = (torch.tensor(list(product(range(3), repeat=len(spatial))), device=image.device) * strides).sum(dim=1)
    return padded.flatten(1)[:, steps[:, None] + corners].flatten(0, 1)


def _shift(padded: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The part of a padded image that starts at a place and has a size."""
    for axis, (first, length) in enumerate(zip(start, size, strict=True), start=1):
        padded = padded.narrow(axis, first, length)
    return padded


def image_signature(image: Tensor, form: SignatureForm = "unit") -> Tensor:
    """Returns the logarithmic spectrum of an image's neighborhoods, per voxel.

    Args:
        image: Image as the network sees it, ``(C, H, W[, D])``.
        form: ``unit``, the default, for norm 1; ``full`` for the logarithms as they are.

    Returns:
        ``(C * 3**axes,)`` float64 on the CPU.

    Raises:
        FeatureError: When the image is not finite or zero everywhere.
    """
    patches = neighborhoods(image)
    values = GramAccumulator(len(patches)).update(patches).singular_values() / patches.shape[1] ** 0.5
    return log_spectrum_signature(values) if form == "unit" else log_spectrum(values)


def output_signature(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Returns the logarithm of the mean entropy, in nats, over the predicted foreground.

    Where no foreground is predicted, the entropy is the largest there is.

    Args:
        logits: Logits, ``(K, H, W[, D])``.
        sigmoid: Whether each channel is a class by itself, foreground where it is likelier than not; else class 0 is
            background. Default false.

    Returns:
        ``(1,)`` float64 on the CPU.

    Raises:
        FeatureError: When the logits are not finite.
    """
    mean = uncertainty(logits, sigmoid=sigmoid) * _largest_entropy(logits, sigmoid)
    return mean.clamp_min(LEAST_ENTROPY).log()


def finite_output(logits: Tensor) -> Tensor:
    """Returns logits of any shape without their gradient.

    Raises:
        FeatureError: When they are not finite.
    """
    logits = logits.detach()
    if not bool(torch.isfinite(logits.sum())):
        raise FeatureError("the output of the network holds NaN or infinite values: no signature exists")
    return logits


def uncertainty(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Returns the mean entropy over the predicted foreground, as a share of the largest there is.

    Args:
        logits: Logits, ``(K, H, W[, D])``.
        sigmoid: Whether each channel is a class by itself, foreground where it is likelier than not; else class 0 is
            background. Default false.

    Returns:
        ``(1,)`` float64 on the CPU, in [0, 1]; higher means more abnormal. :data:`NOTHING_FOUND` where no foreground is
        predicted, and nowhere else.

    Raises:
        FeatureError: When the logits are not finite.
    """
    logits = finite_output(logits)
    if sigmoid:
        chosen = logits[logits > 0]
        rivals = torch.stack([chosen, torch.zeros_like(chosen)])
    else:
        rivals = logits[:, logits.argmax(dim=0) > 0]
    if not rivals.numel():
        return torch.tensor([NOTHING_FOUND], dtype=torch.float64)
    logarithms = rivals.double().log_softmax(dim=0)
    entropy = -(logarithms.exp() * logarithms).sum(dim=0)
    return (entropy.mean().reshape(1) / _largest_entropy(logits, sigmoid)).cpu()


def _largest_entropy(logits: Tensor, sigmoid: bool) -> float:
    """Entropy of classes that are all alike, in nats."""
    return math.log(2 if sigmoid else len(logits))
