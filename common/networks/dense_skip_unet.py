"""Defines a residual U-Net whose encoder is densely connected across resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import ResidualUnit
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from .levels import check_levels


class DenseSkipUNet(nn.Module):
    """Returns logits of a residual U-Net in which every encoder map feeds all coarser encoder maps.

    Karimi and Gholipour, *Improving Calibration and Out-of-Distribution Detection in Deep Models for Medical Image
    Segmentation*, IEEE Trans. Artif. Intell. 4(2), 2023, section III-B (https://doi.org/10.1109/tai.2022.3159510). It
    is a U-Net with residual connections and 14 features in the first stage. Beside the usual skips from encoder to
    decoder, strided connections lead from every fine encoder map to all coarser ones. The paper leaves open the number
    of levels, the kernel of the strided connections, the activation and the normalization. Chosen here are four levels,
    a kernel as large as the stride (so that every voxel is seen once), leaky rectified units, and instance
    normalization. The latter does not depend on the batch and so suits the paper's batches of one image.

    The last feature map before the head, ``features[0]`` channels at full resolution, is the output of the module
    ``decoders.0``; the coarser ones are ``decoders.1`` and so on, the encoder's are ``encoders.0`` (fine) to
    ``encoders.3`` (coarse).

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of the image.
        out_channels: Number of channels of the logits; one sigmoid channel per foreground class.
        features: Channels of each level, from fine to coarse, at least two levels; 14, 28, 56 and 112 by default. The
            stride between levels is 2.
        norm: Normalization of the residual units, a name that MONAI accepts, or ``None`` for no normalization;
            ``instance`` by default.
        dropout: Dropout probability inside the residual units, in [0, 1); 0 by default, 0.1 in the paper's UNC-Dropout.

    Raises:
        ConfigError: When ``spatial_dims`` or ``features`` is not accepted.

    Example:
        >>> network = DenseSkipUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(4, 8))
        >>> network(torch.zeros(1, 1, 16, 16)).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        features: Sequence[int] = (14, 28, 56, 112),
        norm: str | None = "instance",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_levels(spatial_dims, features)
        self.divisor = 2 ** (len(features) - 1)
        convolution = Conv[Conv.CONV, spatial_dims]
        transposed = Conv[Conv.CONVTRANS, spatial_dims]

        def unit(channels_in: int, channels_out: int) -> nn.Module:
            return ResidualUnit(
                spatial_dims, channels_in, channels_out, subunits=2, act="LEAKYRELU", norm=norm, dropout=dropout or None
            )

        self.encoders = nn.ModuleList([unit(in_channels, features[0])])
        self.strided = nn.ModuleList()
        for level in range(1, len(features)):
            links = [
                convolution(features[j], features[j], kernel_size=2 ** (level - j), stride=2 ** (level - j))
                for j in range(level)
            ]
            self.strided.append(nn.ModuleList(links))
            self.encoders.append(unit(sum(features[:level]), features[level]))
        self.upsamplers = nn.ModuleList(
            transposed(features[i + 1], features[i], kernel_size=2, stride=2) for i in range(len(features) - 1)
        )
        self.decoders = nn.ModuleList(unit(2 * features[i], features[i]) for i in range(len(features) - 1))
        self.head = convolution(features[0], out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Maps an image ``(B, in_channels, H, W[, D])`` to logits ``(B, out_channels, H, W[, D])``.

        Raises:
            ValueError: When a spatial size is no multiple of ``divisor`` (8 with four levels).
        """
        for size in image.shape[2:]:
            if size % self.divisor != 0:
                raise ValueError(f"spatial sizes {image.shape[2:]} must be multiples of {self.divisor}")
        maps: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            if level == 0:
                maps.append(encoder(image))
            else:
                maps.append(encoder(self._gather(level, maps)))
        decoded = maps[-1]
        # Coarse to fine. Indices of a ModuleList must be constants in TorchScript, hence the two plain loops.
        for step in range(len(maps) - 2, -1, -1):
            decoded = self._decode(step, decoded, maps[step])
        return self.head(decoded)

    def _gather(self, level: int, maps: list[Tensor]) -> Tensor:
        """All finer encoder maps, strided to ``level`` and joined along the channels."""
        gathered: list[Tensor] = []
        for index, links in enumerate(self.strided):
            if index == level - 1:
                for j, link in enumerate(links):
                    gathered.append(link(maps[j]))
        return torch.cat(gathered, dim=1)

    def _decode(self, level: int, coarse: Tensor, skip: Tensor) -> Tensor:
        """One decoder level: upsample, join the encoder's map, refine."""
        result = coarse
        for index, (upsampler, decoder) in enumerate(zip(self.upsamplers, self.decoders)):  # noqa: B905 - TorchScript knows no strict
            if index == level:
                result = decoder(torch.cat([upsampler(coarse), skip], dim=1))
        return result
