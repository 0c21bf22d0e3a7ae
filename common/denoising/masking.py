"""Hides blocks of images, which a network learns to fill in: another task to pre-train by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from monai.transforms import Transform
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import ConfigError
from .noise import CoarseNoise

Pretext = Literal["noise", "mask"]


class HideBlocks(Transform):
    """Makes batches that a network learns to fill in: blocks of the images are set to zero, all channels together.

    As in masked autoencoders (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377), by a network that sees zeros
    where theirs sees nothing.

    Args:
        mask_share: Share of the blocks that are hidden, on average, in (0, 1). 0.5 by default.
        mask_resolution: Number of blocks along each axis, at least 1. 8 by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(self, *, mask_share: float = 0.5, mask_resolution: int = 8) -> None:
        if not 0 < mask_share < 1 or mask_resolution < 1:
            raise ConfigError(
                f"mask_share is {mask_share} and mask_resolution {mask_resolution}; accepted are a share above 0 and "
                "below 1, and at least one block along each axis"
            )
        self.mask_share, self.mask_resolution = mask_share, mask_resolution

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Returns which blocks stay, ``(B, 1, h, w[, d])`` of zeros and ones.

        Args:
            shape: Shape of the batch, ``(B, C, H, W[, D])``.
            generator: Generator on the CPU, so that the same seed hides the same blocks on every device.
        """
        blocks = [min(self.mask_resolution, extent) for extent in shape[2:]]
        return (torch.rand(shape[0], 1, *blocks, generator=generator) >= self.mask_share).float()

    def __call__(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Returns the batch with blocks of ``image`` hidden and, as ``label``, the whole images.

        Args:
            batch: Tensors of the batch; ``image`` is ``(B, C, H, W[, D])``, on any device, and stays as it is.
            generator: Generator of the draw, see :meth:`draw`.
        """
        clean = batch["image"]
        kept = interpolate(self.draw(clean.shape, generator), clean.shape[2:], mode="nearest")
        return {**batch, "image": clean * kept.to(clean.device, non_blocking=True), "label": clean}


def make_pretext(
    pretext: Pretext = "noise", *, mask_share: float = 0.5, mask_resolution: int = 8, **settings: Any
) -> CoarseNoise | HideBlocks:
    """Returns what is done to images in pre-training.

    Args:
        pretext: Task of pre-training: ``noise``, the default and the paper's, see :class:`CoarseNoise`, or ``mask``,
            see :class:`HideBlocks`.
        mask_share: Share of hidden blocks, see :class:`HideBlocks`. 0.5 by default.
        mask_resolution: Number of blocks along each axis, see :class:`HideBlocks`. 8 by default.
        **settings: Settings of :class:`CoarseNoise`.

    Raises:
        ConfigError: When there is no such task, or a setting is not accepted.
    """
    if pretext not in get_args(Pretext):
        raise ConfigError(f"pretext is {pretext!r}; accepted are {', '.join(get_args(Pretext))}")
    noise, mask = CoarseNoise(**settings), HideBlocks(mask_share=mask_share, mask_resolution=mask_resolution)
    return noise if pretext == "noise" else mask
