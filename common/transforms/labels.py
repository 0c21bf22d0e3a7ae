"""From class indices to the channels of a network's output, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from ..errors import ConfigError, LabelError


def foreground_channels(label: Tensor, labels: Sequence[int] | None, out_channels: int) -> Tensor:
    """Returns one binary channel for each output of a sigmoid network.

    Karimi and Gholipour 2023, section III-C: all data sets share one head, so their foreground labels are merged into
    one channel; section IV-B: with one channel for each class, a data set with fewer classes has empty channels.

    Args:
        label: ``(1, H, W[, D])`` class indices, 0 for background.
        labels: the foreground classes that count, ``None`` for all.
        out_channels: channels of the network; 1 merges the classes, more give each class its own, in order.

    Returns:
        ``(out_channels, H, W[, D])`` float32 of zeros and ones.

    Raises:
        ConfigError: when more classes are named than there are channels.
        LabelError: when no class is named and the label holds more classes than there are channels.
    """
    if out_channels > 1 and labels is not None and len(labels) > out_channels:
        raise ConfigError(
            f"foreground_labels {list(labels)} are more than out_channels {out_channels}; give each class a channel"
        )
    if out_channels > 1 and labels is None and float(label.max()) > out_channels:
        raise LabelError(
            f"label holds class {float(label.max()):g} but the network has {out_channels} channels; raise out_channels "
            "or name the classes that count in foreground_labels"
        )
    if out_channels == 1:
        chosen = label > 0 if labels is None else torch.isin(label, torch.tensor(list(labels), device=label.device))
        return chosen.float()
    classes = torch.full((out_channels,), -1, device=label.device)
    given = torch.tensor(list(labels or range(1, out_channels + 1))[:out_channels], device=label.device)
    classes[: len(given)] = given
    return (label == classes.reshape(-1, *[1] * (label.ndim - 1))).float()


def label_map(probability: Tensor, threshold: float = 0.5) -> Tensor:
    """Returns class indices: the most probable foreground channel where it exceeds the threshold, else background.

    Args:
        probability: ``(K, H, W[, D])`` sigmoid outputs.
        threshold: smallest probability of foreground, exclusive.

    Returns:
        ``(1, H, W[, D])`` uint8; 0 is background, ``k + 1`` is channel ``k``.
    """
    largest, index = probability.max(dim=0, keepdim=True)
    return ((index + 1) * (largest > threshold)).to(torch.uint8)


class ForegroundChannelsd(MapTransform):
    """Dictionary version of :func:`foreground_channels`.

    Args:
        keys: keys of the labels; a case without a label passes.
        out_channels: channels of the network.
        foreground_labels: data set (``task`` of a case) -> classes that count; all classes where none is given.
    """

    def __init__(
        self, keys: KeysCollection, out_channels: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.out_channels = out_channels
        self.foreground_labels = dict(foreground_labels or {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with labels turned into binary channels."""
        turned = dict(data)
        for key in self.key_iterator(turned):
            labels = self.foreground_labels.get(str(turned.get("task", "")))
            channels = foreground_channels(torch.as_tensor(turned[key]), labels, self.out_channels)
            turned[key] = convert_to_dst_type(channels, turned[key])[0]
        return turned


class LabelMapd(MapTransform):
    """Dictionary version of :func:`label_map`.

    Args:
        keys: keys of the probabilities.
        threshold: smallest probability of foreground, exclusive.
    """

    def __init__(self, keys: KeysCollection, threshold: float = 0.5) -> None:
        super().__init__(keys)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with probabilities turned into class indices."""
        turned = dict(data)
        for key in self.key_iterator(turned):
            indices = label_map(torch.as_tensor(turned[key]), self.threshold)
            turned[key] = convert_to_dst_type(indices, turned[key], dtype=torch.uint8)[0]
        return turned
