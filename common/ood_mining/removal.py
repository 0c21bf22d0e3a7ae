"""Removes the foreground from an image, which makes a candidate out of a training patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from monai.utils import convert_to_dst_type, convert_to_numpy, optional_import
from torch import Tensor

from ..errors import ConfigError, LabelError

Fill = Literal["zero", "mean", "noise", "inpaint"]


def remove_foreground(image: Any, label: Any, *, fill: Fill = "zero", generator: torch.Generator | None = None) -> Any:
    """Returns a copy of an image in which nothing of the foreground is left.

    Gao and Xu, *Out-of-distribution data supervision towards biomedical semantic segmentation*, section 3.1
    (https://github.com/StudioYG/Med-OoD), which sets the foreground to zero; the other fills are options beyond it. To
    be used on raw intensities, before any normalization: after a z-score, zero would be the mean.

    Args:
        image: Image ``(C, H, W[, D])``, or without the channel axis like ``label``; tensor or array of any number type.
        label: Class indices, ``(1, H, W[, D])`` or ``(H, W[, D])``; whatever is not 0 is foreground.
        fill: ``zero`` (the paper, and the default); ``mean`` of the background, channel by channel; ``noise``, values
            drawn with replacement from the background, all channels of a pixel together, so that colors stay colors;
            ``inpaint``, biharmonic from the border inwards (needs scikit-image). Where there is no background, all fill
            with zero.
        generator: Generator of ``noise``; torch's own with ``None``, the default.

    Returns:
        An image of the type, shape and number type of ``image``; background pixels are unchanged bit for bit.

    Raises:
        ConfigError: When ``fill`` is not accepted, or scikit-image is needed and not installed.
        LabelError: When the shapes of image and label do not fit.

    Example:
        >>> remove_foreground(torch.tensor([[[5, 7, 9]]]), torch.tensor([[0, 2, 0]]), fill="mean")
        tensor([[[5, 7, 9]]])
        >>> remove_foreground(torch.tensor([[[5, 7, 9]]]), torch.tensor([[0, 2, 0]]))
        tensor([[[5, 0, 9]]])
    """
    if fill not in get_args(Fill):
        raise ConfigError(f"fill is {fill!r}; accepted are {', '.join(get_args(Fill))}")
    source, mask = torch.as_tensor(image), _foreground(torch.as_tensor(image), torch.as_tensor(label))
    channels = source if source.ndim > mask.ndim else source[None]
    filled = channels.detach().clone()
    if bool(mask.all()):
        filled.zero_()
    elif bool(mask.any()):
        filled[:, mask] = _FILLS[fill](channels.detach(), mask, generator).to(filled.dtype)
    return convert_to_dst_type(filled.reshape(source.shape), image)[0]


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
