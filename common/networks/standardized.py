"""Standardizes the kernels of convolutions, which lets group normalization learn as fast as batch normalization."""

from __future__ import annotations

from torch import Tensor, nn

EPSILON = 1e-5


def standardize_kernels(weight: Tensor) -> Tensor:
    """Returns kernels of mean 0 and variance 1, each over all of its inputs.

    Qiao et al., *Micro-batch training with batch-channel normalization and weight standardization*, 2019,
    https://arxiv.org/abs/1903.10520, equation 6; scaled by the root of the number of inputs, so that a map keeps its
    size (Brock et al., ICLR 2021).

    Args:
        weight: Kernels, ``(C_out, C_in, *size)``.
    """
    axes = tuple(range(1, weight.ndim))
    centered = weight - weight.mean(dim=axes, keepdim=True)
    variance = centered.square().mean(dim=axes, keepdim=True)
    return centered * (variance * weight[0].numel() + EPSILON).rsqrt()


class StandardizedConv2d(nn.Conv2d):
    """Convolves with :func:`standardize_kernels` of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the convolution of images ``(B, C, H, W)``."""
        return self._conv_forward(input, standardize_kernels(self.weight), self.bias)


class StandardizedConv3d(nn.Conv3d):
    """Convolves with :func:`standardize_kernels` of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the convolution of volumes ``(B, C, H, W, D)``."""
        return self._conv_forward(input, standardize_kernels(self.weight), self.bias)


KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: StandardizedConv2d, nn.Conv3d: StandardizedConv3d}


def standardize_convolutions(network: nn.Module) -> None:
    """Replaces all convolutions of a network by standardized ones with the same weights; names stay as they are.

    Args:
        network: Network, which is changed.
    """
    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if type(part) in KINDS:
                assert isinstance(part, nn.Conv2d | nn.Conv3d)
                new = KINDS[type(part)](
                    part.in_channels,
                    part.out_channels,
                    part.kernel_size,
                    stride=part.stride,
                    padding=part.padding,
                    bias=part.bias is not None,
                )
                new.load_state_dict(part.state_dict())
                setattr(parent, name, new)
