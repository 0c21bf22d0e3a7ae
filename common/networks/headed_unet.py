"""Defines a U-Net whose last convolution, the head, stands apart from the rest, so that tasks can share the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import Tensor, nn

from ..errors import ConfigError
from .levels import check_levels
from .standardized import standardize_convolutions

GROUPS = 8
"""Largest number of groups of group normalization."""

CHANGE_GAIN = 4.0
"""What brings the change that a guide would make, some tenths of an image's range, to the range of the image."""


class HeadedUNet(nn.Module):
    """Returns what a head makes of the last feature map of MONAI's ``BasicUNet`` with a free number of levels.

    Holzschuh et al., *Combining Anomaly Detection and Supervised Learning for Medical Image Segmentation*, MIDL 2023,
    section 2. It is a U-Net with three stages down and three up. The paper leaves features, activation and
    normalization open.

    The last feature map before the head, ``features[0]`` channels at full resolution, is the output of the last module
    of ``ups``, ``ups.2`` with four levels.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of the image.
        out_channels: Number of channels of the output: classes with background, or those of a reconstruction.
        features: Channels of each level, from fine to coarse, at least two levels; 16, 32, 64 and 128 by default. The
            stride between levels is 2.
        skips: Whether maps of the way down go into the way up, true by default. Without them all passes through the
            coarsest level, as in an autoencoder.
        weight_standardization: Whether the kernels of all convolutions but the head are standardized, see
            :class:`StandardizedConv2d`. False by default.
        norm: Normalization, a name that MONAI accepts, or ``None`` for none; ``instance`` by default. ``group`` has 8
            groups, or 4, 2 or 1 where 8 does not divide all features.
        guided: Whether the network sees, beside the image, what a denoiser would change in it: ``guide``, a network of
            the same kind whose weights stay as they are. False by default. It is not in the paper.
        residual: Whether the output of ``guide`` is that change, true by default, or the image without noise.
        image_dropout: Share of the images, in [0, 1), that a guided network is not shown in training, the change alone:
            few labels are learned by heart from the image, and the guide would be passed over. 0.5 by default.

    Raises:
        ConfigError: When ``spatial_dims``, ``features`` or ``image_dropout`` is not accepted.

    Example:
        >>> import torch
        >>> network = HeadedUNet(spatial_dims=2, in_channels=3, out_channels=2, features=(4, 8))
        >>> network(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        features: Sequence[int] = (16, 32, 64, 128),
        norm: str | None = "instance",
        skips: bool = True,
        weight_standardization: bool = False,
        guided: bool = False,
        residual: bool = True,
        image_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_levels(spatial_dims, features)
        if not 0 <= image_dropout < 1:
            raise ConfigError(f"image_dropout is {image_dropout}; accepted are shares from 0, below 1")
        # Before all else, so that a seed gives a denoiser the same start whether it will guide or not.
        self.guide: HeadedUNet | None = None
        if guided:
            self.guide = HeadedUNet(
                spatial_dims, in_channels, in_channels, features=features, norm=norm, skips=skips,
                weight_standardization=weight_standardization,
            ).requires_grad_(requires_grad=False)  # fmt: skip
        block = {"act": ("leakyrelu", {"negative_slope": 0.1, "inplace": True}), "bias": True}
        # Feature maps of one channel each would be normalized to nothing where a level has one voxel.
        settings = {"instance": {"affine": True}, "group": {"num_groups": math.gcd(GROUPS, *features)}}
        block |= {"norm": None if norm is None else (norm, settings.get(norm, {}))}
        levels = list(pairwise(features))
        self.first = TwoConv(spatial_dims, in_channels * (2 if guided else 1), features[0], **block)
        self.downs = nn.ModuleList(Down(spatial_dims, fine, coarse, **block) for fine, coarse in levels)
        self.ups = nn.ModuleList(
            UpCat(spatial_dims, coarse, fine, fine, halves=False, **block) for fine, coarse in reversed(levels)
        )
        self.skips = skips
        if weight_standardization:
            standardize_convolutions(self)
        self.head = Conv["conv", spatial_dims](features[0], out_channels, kernel_size=1)
        self.residual, self.image_dropout = residual, image_dropout

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the guide, which always evaluates."""
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()
        return self

    def decode(self, image: Tensor) -> Tensor:
        """Returns the last feature map ``(B, features[0], H, W[, D])`` of images ``(B, C, H, W[, D])``."""
        maps = [self.first(image if self.guide is None else self._with_change(image, self.guide(image)))]
        for down in self.downs:
            maps.append(down(maps[-1]))
        features = maps.pop()
        for up in self.ups:
            skipped = maps.pop()
            features = up(features, skipped if self.skips else skipped * 0)
        return features

    def _with_change(self, image: Tensor, output: Tensor) -> Tensor:
        """Images, some of them hidden in training, and the change that the guide's output stands for, as channels."""
        change = output if self.residual else output - image
        if self.training and self.image_dropout:
            shown = torch.rand(len(image), *[1] * (image.ndim - 1), device=image.device) >= self.image_dropout
            image = image * shown
        return torch.cat([image, CHANGE_GAIN * change], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Returns ``(B, out_channels, H, W[, D])``."""
        output: Tensor = self.head(self.decode(image))
        return output
