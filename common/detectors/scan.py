"""Describes one scan by a single pass of the network that all detectors share as far as they can."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from monai.metrics import compute_dice
from torch import Tensor, nn

from ..runtime.distributed import unwrap
from ..spectral import SpectralInferer
from .interface import Array
from .outputs import class_logits, segment
from .pooling import FeaturePooling


@dataclass(frozen=True)
class Outcome:
    """What one pass of the network leaves.

    Args:
        logits: Logits ``(1, K, H, W[, D])``.
        collector: Gram matrices of the layers; ``None`` where none was asked for.
        pooling: Pooled features of the layers; ``None`` where none was asked for.
    """

    logits: Tensor
    collector: Any = None
    pooling: FeaturePooling | None = None


class Scan:
    """One prepared image, the network that judges it, and the outcome of the pass, made when it is first needed.

    Args:
        image: Prepared image, ``(1, C, H, W[, D])``, on the network's device.
        network: Trained network, in evaluation mode.
        inferer: Inferer that segments window by window.
        layers: Names of the layers whose Gram matrices are summed. Default none.
        pooled_layers: Names of the layers whose features are pooled. Default none.
        softmax: Whether logits are those of a softmax, see :func:`class_logits`. Default false.
        label: Ground truth, ``(1, K, H, W[, D])``. Default none.
        name: Name of the case, on which random draws depend. Default empty.
    """

    def __init__(
        self,
        image: Tensor,
        network: nn.Module,
        inferer: SpectralInferer,
        *,
        layers: Sequence[str] = (),
        pooled_layers: Sequence[str] = (),
        softmax: bool = False,
        label: Tensor | None = None,
        name: str = "",
    ) -> None:
        self.image, self.network, self.inferer = image, network, inferer
        self.layers, self.pooled_layers = tuple(layers), tuple(pooled_layers)
        self.softmax, self.label, self.name = softmax, label, name

    @cached_property
    def outcome(self) -> Outcome:
        """Returns what one pass of the network leaves, without gradients."""
        pooling = FeaturePooling(self.pooled_layers, softmax=self.softmax) if self.pooled_layers else None
        with torch.no_grad(), pooling.watch(unwrap(self.network)) if pooling else nullcontext():
            if not self.layers:
                return Outcome(self.segment_with(self.network), pooling=pooling)
            inferer = copy.copy(self.inferer)
            inferer.feature_layers = self.layers
            logits, collector = inferer.collect(self.image, self.network)
        return Outcome(logits, collector, pooling)

    @property
    def logits(self) -> Tensor:
        """Returns the logits of classes, background first, ``(1, C, H, W[, D])``."""
        return class_logits(self.outcome.logits, softmax=self.softmax)

    def segment_with(self, network: nn.Module) -> Tensor:
        """Returns the logits that a network, perhaps another one, gives of the image."""
        logits = self.inferer.without_signature()(self.image, network)
        return logits.as_tensor() if hasattr(logits, "as_tensor") else torch.as_tensor(logits)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Returns a generator that depends on the name of the case and the number of a stream alone."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.name}|{stream}".encode()))

    def dice(self, logits: Tensor) -> float:
        """Returns the mean Dice of a segmentation over its channels; NaN without a label or where that is empty.

        Args:
            logits: Logits as a network gives them, ``(1, K, H, W[, D])``.
        """
        if self.label is None:
            return math.nan
        predicted = segment(logits, softmax=self.softmax).cpu()
        truth = self.label.cpu() > 0
        channels = min(predicted.shape[1], truth.shape[1])
        dices = compute_dice(predicted[:, :channels], truth[:, :channels], ignore_empty=True)
        return float(dices.nanmean())


@dataclass(frozen=True)
class Measure:
    """A few numbers of a scan that a detector needs.

    Args:
        take: Function of a scan that returns them.
        layers: Names of the layers whose Gram matrices it needs of the pass. Default none.
        pooled_layers: Names of the layers whose pooled features it needs of the pass. Default none.
        settings: Digest of what decides over it alone, such as other weights. Default empty: nothing does.
    """

    take: Callable[[Scan], Array]
    layers: tuple[str, ...] = ()
    pooled_layers: tuple[str, ...] = ()
    settings: str = ""
