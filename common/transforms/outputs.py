"""Turns logits into what is measured and saved."""

from __future__ import annotations

from monai.transforms import Activationsd, AsDiscreted, Compose, CopyItemsd


def softmax_and_classes() -> Compose:
    """Returns what turns the logits ``pred`` into class numbers, and keeps the softmax of them as ``probability``."""
    softmax = [CopyItemsd("pred", names="probability"), Activationsd("probability", softmax=True)]
    return Compose([*softmax, AsDiscreted("pred", argmax=True)])


def sigmoid_and_channels() -> Compose:
    """Returns what turns the logits ``pred`` into a mask for each class, and keeps their sigmoid as ``probability``."""
    sigmoid = [Activationsd("pred", sigmoid=True), CopyItemsd("pred", names="probability")]
    return Compose([*sigmoid, AsDiscreted("pred", threshold=0.5)])


def logits_and_classes() -> Compose:
    """Returns what turns the logits ``pred`` into class numbers, and keeps them as ``logits``."""
    return Compose([CopyItemsd("pred", names="logits"), AsDiscreted("pred", argmax=True)])
