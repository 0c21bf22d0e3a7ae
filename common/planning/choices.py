"""Chooses the settings of a training from the measures of its data, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fingerprint import Fingerprint

ANISOTROPIC = 3.0
"""From this ratio of the spacing between slices to that in the plane, networks see slice by slice (as nnU-Net does)."""

LABELS = "labeled_fraction"
"""Setting of bundles that learn from few labels: the share that is used. A plan leaves it as it is, and says so."""


@dataclass(frozen=True)
class Choice:
    """A setting that a plan has chosen.

    Args:
        setting: Name of the setting.
        value: Its value.
        why: Reason, in a few words.
    """

    setting: str
    value: Any
    why: str


@dataclass(frozen=True)
class Room:
    """How much a machine takes.

    Args:
        voxels: Most voxels of a window.
        side: Most pixels along a side of a slice or picture.
        device: What the machine is, in a word or two.
    """

    voxels: int
    side: int
    device: str


def room_of(gigabytes: float, *, cuda: bool) -> Room:
    """Returns what a machine of so much memory takes; a CPU is limited by its speed first.

    Args:
        gigabytes: Memory of the machine, or of its GPU, in GiB.
        cuda: Whether a GPU trains.
    """
    if cuda:
        return Room(max(100_000, int(80_000 * gigabytes)), 256, f"a GPU of {gigabytes:.0f} GiB")
    return Room(max(50_000, min(200_000, int(25_000 * gigabytes))), 128, f"a CPU with {gigabytes:.0f} GiB")


def is_sliced(data: Fingerprint) -> bool:
    """Returns whether the slices of volumes lie so far apart that a network should see one at a time.

    Args:
        data: Measures of the data.
    """
    spacing = data.spacing
    return len(spacing) == 3 and spacing[2] >= ANISOTROPIC * max(spacing[:2])


def choose_classes(data: Fingerprint, *, sigmoid: bool, task: str = "") -> list[Choice]:
    """Returns the channels of image and segmentation, and how class numbers with gaps are counted.

    Data sets that name different classes leave the segmentation as the bundle has it.

    Args:
        data: Measures of the data.
        sigmoid: Whether each channel is a class by itself; with a softmax, background has one as well.
        task: Name of the data set, for classes whose numbers have gaps. Default empty.
    """
    chosen = [Choice("in_channels", data.channels, "channels of the images")]
    if not data.alike:
        return chosen
    # What dataset.json does not name is refused by the training, case by case.
    values = sorted(data.classes or data.found)
    names = ", ".join(f"{value} {data.classes.get(value, '(without a name)')}" for value in values)
    where = "dataset.json" if data.classes else "labels"
    count = len(values) + (0 if sigmoid else 1)
    why = f"{len(values)} class(es) in {where}: {names}" + ("" if sigmoid else "; and background")
    chosen.append(Choice("out_channels", max(count, 1 if sigmoid else 2), why))
    if values and values != list(range(1, len(values) + 1)):
        chosen.append(Choice("foreground_labels", {task: values}, "numbers of the classes have gaps"))
    return chosen


def choose_labels(config: Mapping[str, Any]) -> list[Choice]:
    """Returns the share of the labels that a bundle for few labels uses, which is the bundle's own; none for others.

    Args:
        config: Settings of the bundle.
    """
    share = config.get(LABELS)
    if share is None or share == 1 or config.get("labeled_cases"):
        return []
    why = (
        f"this method is for few labels: {100 * (1 - share):.0f} % of the training cases go without theirs; 1 uses all"
    )
    return [Choice(LABELS, share, why)]


def choose_intensities(data: Fingerprint) -> list[Choice]:
    """Returns modality and window of the intensities.

    Args:
        data: Measures of the data.
    """
    if data.modality != "CT":
        if data.modality:
            return [Choice("modality", data.modality, "dataset.json says so")]
        if len(data.size) == 2 and data.channels == 3:
            return [Choice("modality", "RGB", "dataset.json does not tell; pictures of three channels are in color")]
        return [Choice("modality", "MR", "dataset.json does not tell; numbers without a unit are MR")]
    low, high = data.foreground
    if data.whole[0] >= 0:
        # Someone has windowed the scans already: air has -1000 Hounsfield units.
        window = [math.floor(data.whole[0]), math.ceil(data.whole[1])]
        why = "the scans hold no air of -1000 HU: they were windowed before, and all of it counts"
    else:
        window = [math.floor(low / 10) * 10, math.ceil(high / 10) * 10]
        why = f"99 % of the labeled voxels lie between {low:.0f} and {high:.0f} HU"
    return [Choice("modality", "CT", "dataset.json says so"), Choice("hounsfield_window", window, why)]


def choose_grid(data: Fingerprint, divisor: Sequence[int], room: Room) -> list[Choice]:
    """Returns spacing and window of volumes.

    Args:
        data: Measures of volumes.
        divisor: Number of voxels of which windows are multiples, along each axis.
        room: What the machine takes.
    """
    if is_sliced(data):
        return _slice_grid(data, divisor, room)
    spacing, why = None, "all scans have about the same spacing"
    if data.spread > 1.1:
        spacing, why = [round(value, 3) for value in data.spacing], "median; the spacing of the scans differs"
    window = [_up(extent, number) for extent, number in zip(data.size, divisor, strict=True)]
    whole = math.prod(window) <= room.voxels
    while math.prod(window) > room.voxels:
        longest = max(range(3), key=lambda axis: window[axis] / divisor[axis] if window[axis] > divisor[axis] else 0)
        window[longest] -= divisor[longest]
    text = "holds the median scan" if whole else f"as much of the median scan as {room.device} takes"
    size = " x ".join(f"{extent:g}" for extent in data.size)
    return [Choice("spacing", spacing, why), Choice("roi_size", window, f"{text}, {size} voxels")]


def _slice_grid(data: Fingerprint, divisor: Sequence[int], room: Room) -> list[Choice]:
    """Spacing in the plane and windows of one slice."""
    extent = max(size * step for size, step in zip(data.size[:2], data.spacing[:2], strict=True))
    finest = max(data.spacing[:2])
    # A little more, so that scans whose header differs in a late digit do not get a row beyond the window.
    target = max(finest, 1.001 * extent / room.side)
    changes = data.spread > 1.1 or target > 1.002 * finest
    spacing = [round(target, 3), round(target, 3), -1.0] if changes else None
    why = f"median in the plane {finest:.3g} mm, {room.device} takes {room.side} pixels of a side; slices stay"
    sides = [
        _up(size * step / target - 0.01, number)
        for size, step, number in zip(data.size[:2], data.spacing[:2], divisor[:2], strict=True)
    ]
    sides = [min(side, _up(room.side, number)) for side, number in zip(sides, divisor[:2], strict=True)]
    return [
        Choice("spacing", spacing, why if changes else "all scans have the same spacing, and fit"),
        Choice("roi_size", [*sides, 1], "a slice as a whole"),
    ]


def choose_picture_window(data: Fingerprint, divisor: Sequence[int], room: Room, *, resized: bool) -> list[Choice]:
    """Returns the window of pictures.

    Args:
        data: Measures of pictures.
        divisor: Number of pixels of which windows are multiples, along each axis.
        room: What the machine takes.
        resized: Whether whole pictures are resized to the window, in place of windows cut out of them.
    """
    size = data.size
    factor = min(1.0, room.side / max(size))
    wanted = [extent * factor for extent in size] if resized else [min(extent, room.side) for extent in size]
    window = [max(_near(value, number), number) for value, number in zip(wanted, divisor, strict=True)]
    text = "whole pictures, resized" if resized else "windows cut out of pictures"
    return [Choice("roi_size", window, f"{text}; median {size[0]:g} x {size[1]:g}, {room.device}")]


def choose_batch(window: Sequence[int], *, pictures: bool, room: Room) -> Choice:
    """Returns the size of a batch.

    Args:
        window: Window of the network.
        pictures: Whether the data are pictures.
        room: What the machine takes.
    """
    usual = 8 if pictures else 16 if window[-1] == 1 else 2
    largest = max(1, 2 * room.voxels // math.prod(window))
    return Choice("batch_size", min(usual, largest), f"windows of {math.prod(window)} voxels on {room.device}")


def apply_given(choices: Sequence[Choice], given: Mapping[str, Any]) -> list[Choice]:
    """Returns the choices with those that the user has made in place of the plan's.

    Args:
        choices: Choices of the plan.
        given: Settings of the user.
    """
    kept = [
        Choice(c.setting, given[c.setting], _instead(c.value, given[c.setting])) if c.setting in given else c
        for c in choices
    ]
    further = [name for name in given if name not in {choice.setting for choice in choices}]
    return kept + [Choice(name, given[name], "given") for name in further]


def _instead(planned: Any, given: Any) -> str:
    """Reason of a given value, with what was planned where that differs."""
    return "given" if planned == given else f"given; planned was {planned}"


def _up(value: float, number: int) -> int:
    """The next multiple of a number."""
    return max(number, math.ceil(value / number) * number)


def _near(value: float, number: int) -> int:
    """The nearest multiple of a number."""
    return round(value / number) * number
