"""Turns class indices into the channels of a network's output, and back."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from ..errors import ConfigError, LabelError
from .scan import scan_name

logger = logging.getLogger(__name__)


def foreground_channels(label: Tensor, labels: Sequence[int] | None, out_channels: int) -> Tensor:
    """Returns one binary channel for each output of a sigmoid network.

    Karimi and Gholipour 2023, section III-C: all data sets share one head, so their foreground labels are merged into
    one channel; section IV-B: with one channel for each class, a data set with fewer classes has empty channels.

    Args:
        label: Class indices, ``(1, H, W[, D])``, 0 for background.
        labels: Foreground classes that count, or ``None`` for all.
        out_channels: Number of channels of the network. 1 merges the classes; more give each class its own, in order.

    Returns:
        ``(out_channels, H, W[, D])`` float32 of zeros and ones.

    Raises:
        ConfigError: When more classes are named than there are channels.
        LabelError: When no class is named and the label holds more classes than there are channels.
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
        probability: Sigmoid outputs, ``(K, H, W[, D])``, in [0, 1].
        threshold: Probability that foreground must exceed, in [0, 1]. Default 0.5.

    Returns:
        ``(1, H, W[, D])`` uint8; 0 is background, ``k + 1`` is channel ``k``.
    """
    largest, index = probability.max(dim=0, keepdim=True)
    return ((index + 1) * (largest > threshold)).to(torch.uint8)


class _LabelTransform(MapTransform):
    """Turns labels; one of another data set whose classes are not the network's is left out, and this is logged once.

    An evaluation needs no label to judge a scan of another data set, and no Dice there would tell a quality.
    """

    def __init__(self, keys: KeysCollection, foreground_labels: Mapping[str, Sequence[int]] | None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.foreground_labels = dict(foreground_labels or {})
        self._left_out: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with labels turned.

        Raises:
            LabelError: When a label has a value beyond the network's classes, naming the case.
        """
        turned = dict(data)
        for key in self.key_iterator(turned):
            try:
                label = self._turn(torch.as_tensor(turned[key]), turned)
            except LabelError as error:
                if not _is_of_others(turned):
                    raise LabelError(f"{scan_name(turned)}: {error}") from error
                self._leave_out(turned, key)
            else:
                turned[key] = convert_to_dst_type(label, turned[key], dtype=label.dtype)[0]
        return turned

    def _turn(self, label: Tensor, data: Mapping[Hashable, Any]) -> Tensor:
        raise NotImplementedError

    def _named(self, data: Mapping[Hashable, Any]) -> Sequence[int] | None:
        """The classes that count in the data set of a case, where they are named."""
        return self.foreground_labels.get(str(data.get("task", "")))

    def _leave_out(self, data: dict[Hashable, Any], key: Hashable) -> None:
        del data[key]
        group = str(data.get("group", ""))
        if group not in self._left_out:
            self._left_out.add(group)
            logger.info("labels of %s have other classes than the network: they are not used, the scans are", group)


def _is_of_others(data: Mapping[Hashable, Any]) -> bool:
    """Whether a case of an evaluation is of another data set, not a damaged one of the network's own."""
    return data.get("in_distribution") is False and "damage" not in data


class ForegroundChannelsd(_LabelTransform):
    """Dictionary version of :func:`foreground_channels`.

    Args:
        keys: Keys of the labels; a case without a label passes.
        out_channels: Number of channels of the network, at least 1.
        foreground_labels: Classes that count, by data set (``task`` of a case). All classes count where none is given,
            the default.
    """

    def __init__(
        self, keys: KeysCollection, out_channels: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__(keys, foreground_labels)
        self.out_channels = out_channels

    def _turn(self, label: Tensor, data: Mapping[Hashable, Any]) -> Tensor:
        return foreground_channels(label, self._named(data), self.out_channels)


def class_indices(label: Tensor, num_classes: int, labels: Sequence[int] | None = None) -> Tensor:
    """Returns the class indices of a softmax network: 0 for background, then one number for each class that counts.

    Args:
        label: Values of the label, ``(1, H, W[, D])``.
        num_classes: Number of channels of the network, background included.
        labels: Values of the classes that count, in order; others become background. ``None``, the default, takes
            values as they are.

    Returns:
        ``(1, H, W[, D])`` uint8, 0 to ``num_classes - 1``.

    Raises:
        ConfigError: When more classes are named than the network has.
        LabelError: When none is named and a value is beyond the network's classes.
    """
    if labels is None:
        largest = int(label.max())
        if largest >= num_classes:
            raise LabelError(
                f"label holds {largest} but out_channels is {num_classes}, that is, 0 to {num_classes - 1}; set "
                f"out_channels to {largest + 1} or, where numbers have gaps, name those that count in foreground_labels"
            )
        return label.to(torch.uint8)
    if len(labels) >= num_classes:
        raise ConfigError(
            f"foreground_labels {list(labels)} and background are more than out_channels {num_classes}; raise it"
        )
    given = torch.tensor(list(labels), device=label.device).reshape(-1, *[1] * (label.ndim - 1))
    numbers = torch.arange(1, len(labels) + 1, device=label.device).reshape(given.shape)
    return ((label == given) * numbers).sum(dim=0, keepdim=True).to(torch.uint8)


class ClassIndicesd(_LabelTransform):
    """Dictionary version of :func:`class_indices`.

    Args:
        keys: Keys of the labels; a case without a label passes.
        num_classes: Number of channels of the network, background included, from 2 to 256.
        foreground_labels: Classes that count, in order, by data set (``task`` of a case). All classes count where none
            is given, the default.

    Raises:
        ConfigError: When the number of classes is not accepted.
    """

    def __init__(
        self, keys: KeysCollection, num_classes: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__(keys, foreground_labels)
        if not 2 <= num_classes <= 256:
            raise ConfigError(f"out_channels is {num_classes}; a softmax needs background and a class: 2 to 256")
        self.num_classes = num_classes

    def _turn(self, label: Tensor, data: Mapping[Hashable, Any]) -> Tensor:
        return class_indices(label, self.num_classes, self._named(data))


class ClassChannelsd(ClassIndicesd):
    """One binary channel for each foreground class that the data set of a case has; others are not measured.

    Args:
        keys: Keys of the labels; a case without a label passes.
        num_classes: Number of channels of the network, background included, from 2 to 256.
        foreground_labels: Classes that count, in order, by data set (``task`` of a case). All classes count where none
            is given, the default.
    """

    def _turn(self, label: Tensor, data: Mapping[Hashable, Any]) -> Tensor:
        indices = super()._turn(label, data)
        named, last = self._named(data), self.num_classes - 1
        count = max(data.get("classes", [last])) if named is None else len(named)
        channels = torch.arange(1, min(count, last) + 1, device=label.device)
        return (indices == channels.reshape(-1, *[1] * (label.ndim - 1))).float()


class DecodeMaskd(MapTransform):
    """Turns masks that hold gray values into masks of class numbers, for cases that tell the gray value of each class.

    Args:
        keys: Keys of the masks; a case without ``codes`` or without a mask passes.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with one channel of class numbers; values that are no class become background.

        Raises:
            LabelError: When the channels of a mask are no shades of gray.
        """
        turned = dict(data)
        codes: Sequence[int] = turned.get("codes", ())
        for key in self.key_iterator(turned) if len(codes) else ():
            mask = torch.as_tensor(turned[key])
            if bool((mask[:3] != mask[:1]).any()):
                raise LabelError(f"{scan_name(turned)}: mask with colors; a watershed mask holds shades of gray")
            numbers = class_indices(mask[:1], len(codes), list(codes[1:]))
            turned[key] = convert_to_dst_type(numbers.float(), turned[key])[0]
        return turned


class LabelMapd(MapTransform):
    """Dictionary version of :func:`label_map`.

    Args:
        keys: Keys of the probabilities.
        threshold: Probability that foreground must exceed, in [0, 1]. Default 0.5.
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


class KeepTensorsd(MapTransform):
    """Keeps images and labels alone, as plain tensors without metadata, which is all that training needs.

    Args:
        keys: Keys that are kept; a case may lack one.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the tensors of these keys."""
        return {key: torch.as_tensor(data[key]).as_subclass(Tensor) for key in self.key_iterator(dict(data))}
