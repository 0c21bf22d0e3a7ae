"""Removes the foreground from an image, which makes a candidate out of a training patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.utils import convert_to_dst_type, convert_to_numpy, optional_import
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..errors import ConfigError, LabelError

Fill = Literal["zero", "mean", "noise", "inpaint"]


def remove_foreground(
    image: Any,
    label: Any,
    *,
    fill: Fill = "zero",
    dilation: int | None = None,
    feather: int | None = None,
    weights: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    """Returns a copy of an image in which nothing of the foreground is left.

    Gao and Xu, *Out-of-distribution data supervision towards biomedical semantic segmentation*, section 3.1
    (https://github.com/StudioYG/Med-OoD), which sets the foreground to zero; the other fills, the dilation and the soft
    rim are options beyond it. To be used on raw intensities, before any normalization: after a z-score, zero would be
    the mean.

    Args:
        image: Image ``(C, H, W[, D])``, or without the channel axis like ``label``; tensor or array of any number type.
        label: Class indices, ``(1, H, W[, D])`` or ``(H, W[, D])``; whatever is not 0 is foreground.
        fill: ``zero`` (the paper, and the default); ``mean`` of the background, channel by channel; ``noise``, values
            drawn with replacement from the background, all channels of a pixel together, so that colors stay colors;
            ``inpaint``, biharmonic from the border inwards (needs scikit-image). Where there is no background, all fill
            with zero.
        dilation: Pixels by which the foreground grows first, at least 1, see :func:`removal_weights`. Default none.
        feather: Pixels over which the fill fades into the image around, at least 1, see :func:`removal_weights`.
            Default none.
        weights: How much of every pixel is replaced, of the shape of ``label`` without a channel axis, in [0, 1]: for a
            part of an image whose foreground lies beyond it. Default :func:`removal_weights` of ``label``.
        generator: Generator of ``noise``; torch's own with ``None``, the default.

    Returns:
        An image of the type, shape and number type of ``image``; pixels of weight 0 are unchanged bit for bit.

    Raises:
        ConfigError: When an argument is not accepted, or scikit-image is needed and not installed.
        LabelError: When the shapes of image and label do not fit.

    Example:
        >>> remove_foreground(torch.tensor([[[5, 7, 9]]]), torch.tensor([[0, 2, 0]]), fill="mean")
        tensor([[[5, 7, 9]]])
        >>> remove_foreground(torch.tensor([[[5, 7, 9]]]), torch.tensor([[0, 2, 0]]))
        tensor([[[5, 0, 9]]])
    """
    check_removal(fill, dilation, feather)
    source, foreground = torch.as_tensor(image), _foreground(torch.as_tensor(image), torch.as_tensor(label))
    channels = source if source.ndim > foreground.ndim else source[None]
    filled = channels.detach().clone()
    if weights is None:
        weights = removal_weights(foreground, dilation=dilation, feather=feather)
    weights = weights.to(channels.device)
    mask = replaced_pixels(weights)
    if bool(mask.all()):
        filled.zero_()
    elif bool(mask.any()):
        values = _FILLS[fill](channels.detach(), mask, generator).to(filled.dtype)
        filled[:, mask] = _fade(values, filled[:, mask], weights[mask])
    return convert_to_dst_type(filled.reshape(source.shape), image)[0]


def check_removal(fill: str, dilation: int | None = None, feather: int | None = None) -> None:
    """Makes sure that a way of removing foreground is one that there is.

    Args:
        fill: Name of the fill, see :func:`remove_foreground`.
        dilation: Pixels by which the foreground grows first. Default none.
        feather: Pixels over which the fill fades. Default none.

    Raises:
        ConfigError: When an argument is not accepted.
    """
    if fill not in get_args(Fill):
        raise ConfigError(f"fill is {fill!r}; accepted are {', '.join(get_args(Fill))}")
    for name, width in (("dilation", dilation), ("feather", feather)):
        if width is not None and (width < 1 or width != int(width)):
            raise ConfigError(f"{name} is {width}; accepted are whole numbers from 1, or null for none")


def removal_weights(foreground: Tensor, *, dilation: int | None = None, feather: int | None = None) -> Tensor:
    """Returns how much of every pixel the removal of the foreground replaces.

    A mask that is drawn tightly leaves a rim of the foreground behind, and a sharp edge tells where something was.

    Args:
        foreground: Mask of the foreground, ``(H, W[, D])`` bool.
        dilation: Euclidean distance from the foreground, in pixels, up to which all is replaced, at least 1. Default
            none: the foreground alone.
        feather: Width of the rim beyond, in pixels, at least 1, in which the weight falls to 0 as half a cosine does.
            Default none: a sharp edge.

    Returns:
        Of the shape of ``foreground``, float64 on the CPU, in [0, 1].

    Example:
        >>> removal_weights(torch.tensor([[True, False, False, False]]), dilation=1, feather=1)
        tensor([[1.0000, 1.0000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    mask = foreground.cpu()
    if (dilation is None and feather is None) or not bool(mask.any()):
        return mask.double()
    beyond = torch.from_numpy(np.asarray(distance_transform_edt(~mask.numpy()))) - (dilation or 0)
    if feather is None:
        return (beyond <= 0).double()
    return (1 + (beyond.clamp(min=0) / (feather + 1)).clamp(max=1).mul(torch.pi).cos()) / 2


def replaced_pixels(weights: Tensor) -> Tensor:
    """Returns the mask of the pixels that a removal with these weights, of any shape, replaces at least in part.

    Within a soft rim, what would be replaced in part is all the background there is, and stays.

    Example:
        >>> replaced_pixels(torch.tensor([0.0, 0.5, 1.0])), replaced_pixels(torch.tensor([0.5, 1.0]))
        (tensor([False,  True,  True]), tensor([False,  True]))
    """
    return weights > 0 if bool((weights == 0).any()) else weights == 1


def _fade(values: Tensor, image: Tensor, weights: Tensor) -> Tensor:
    """New values and those of the image, ``(C, N)`` each, mixed by weights ``(N,)``; exact where a weight is 1."""
    mixed = weights * values + (1 - weights) * image
    mixed = (mixed if image.is_floating_point() else mixed.round()).to(image.dtype)
    return torch.where(weights == 1, values, mixed)


def _foreground(image: Tensor, label: Tensor) -> Tensor:
    """The mask of foreground pixels, without a channel axis."""
    mask = label != 0
    if mask.ndim == image.ndim and mask.shape[0] == 1 and mask.shape[1:] == image.shape[1:]:
        return mask[0]
    if mask.shape in (image.shape, image.shape[1:]):
        return mask
    raise LabelError(
        f"label of shape {tuple(label.shape)}, image of shape {tuple(image.shape)}; accepted is a label with the "
        "image's spatial shape and one channel or none"
    )


def _zero(channels: Tensor, mask: Tensor, _generator: torch.Generator | None) -> Tensor:
    return channels.new_zeros(len(channels), int(mask.sum()))


def _mean(channels: Tensor, mask: Tensor, _generator: torch.Generator | None) -> Tensor:
    mean = channels[:, ~mask].double().mean(dim=1, keepdim=True)
    # Truncating to whole numbers would darken the image.
    return (mean if channels.is_floating_point() else mean.round()).expand(-1, int(mask.sum()))


def _noise(channels: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    background = channels[:, ~mask]
    drawn = torch.randint(background.shape[1], (int(mask.sum()),), generator=generator)
    return background[:, drawn.to(channels.device)]


def _inpaint(channels: Tensor, mask: Tensor, _generator: torch.Generator | None) -> Tensor:
    inpaint_biharmonic, installed = optional_import("skimage.restoration", name="inpaint_biharmonic")
    if not installed:
        raise ConfigError("fill is 'inpaint', which needs scikit-image; install it with 'pip install scikit-image'")
    # The function scales whole numbers to [0, 1]; as floating numbers they keep their unit.
    pixels = convert_to_numpy(channels.double())
    painted = torch.from_numpy(inpaint_biharmonic(pixels, convert_to_numpy(mask), channel_axis=0))
    values = painted[:, mask.cpu()].to(channels.device)
    return values if channels.is_floating_point() else values.round()


_FILLS: dict[Fill, Callable[[Tensor, Tensor, torch.Generator | None], Tensor]] = {
    "zero": _zero,
    "mean": _mean,
    "noise": _noise,
    "inpaint": _inpaint,
}
