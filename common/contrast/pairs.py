"""Compares the projections of frames, or of patches, that show the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.utils import convert_tensor
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import ConfigError
from .heads import pool_to_grid
from .losses import PAIRS, positive_pairs, supervised_contrastive_loss


class PairLoss:
    """The supervised contrastive loss of every scale, of whole frames by their sets of classes.

    He et al., *Momentum Contrast*, CVPR 2020, compare with a queue of earlier embeddings; here they are those of the
    network itself, as in *Cross-Batch Memory* (Wang et al., CVPR 2020).

    Args:
        positives: Name of the relation that makes pairs: ``equal``, the source's and the default, for frames of the
            same set of classes; ``overlap`` for all that share a class, weighted by the Jaccard index of their sets.
        temperature: Temperature, above 0. 0.1 by default.
        queue_size: Number of earlier frames that every scale also compares with, at least 0. 0, the default, for none.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(self, *, positives: str = "equal", temperature: float = 0.1, queue_size: int = 0) -> None:
        if positives not in PAIRS:
            raise ConfigError(f"positives is {positives!r}; accepted are {' and '.join(PAIRS)}")
        if not temperature > 0:
            raise ConfigError(f"temperature is {temperature}; accepted are numbers above 0")
        if queue_size < 0:
            raise ConfigError(f"queue_size is {queue_size}; accepted are numbers of frames from 0")
        self.relation, self.temperature, self.queue_size = PAIRS[positives], temperature, queue_size
        self.queue: dict[str, Any] = {}

    @property
    def compares_equals(self) -> bool:
        """Whether it pairs frames of equal classes within a batch, without weights or memory."""
        return self.relation is positive_pairs and not self.queue_size

    def __call__(self, projections: Sequence[Tensor], presence: Tensor, phase: Tensor) -> list[Tensor]:
        """Returns the loss of every scale, and remembers the frames.

        Args:
            projections: Projections of the frames, one ``(B, D)`` for every scale.
            presence: Table of their classes, ``(B, K)``.
            phase: Numbers of their phases, ``(B,)``, -1 where none is given.
        """
        # A checkpoint is read to the CPU.
        self.queue = convert_tensor(self.queue, device=presence.device)
        count, old = len(presence), self.queue
        tables = [presence, old["presence"]] if old else [presence]
        phases = [phase, old["phase"]] if old else [phase]
        memory = old["projections"] if old else [None] * len(projections)
        positive = self.relation(torch.cat(tables), torch.cat(phases))[:count]
        settings: dict[str, Any] = {"temperature": self.temperature}
        each = zip(projections, memory, strict=True)
        losses = [supervised_contrastive_loss(own, positive, memory=seen, **settings) for own, seen in each]
        if self.queue_size:
            self._remember([item.detach() for item in projections], tables, phases)
        return losses

    def _remember(self, projections: Sequence[Tensor], tables: Sequence[Tensor], phases: Sequence[Tensor]) -> None:
        """Puts the frames of a batch before those of earlier ones; the oldest are forgotten."""
        old = self.queue.get("projections", [item[:0] for item in projections])
        joined = [torch.cat(pair)[: self.queue_size] for pair in zip(projections, old, strict=True)]
        self.queue = {
            "projections": joined,
            "presence": torch.cat(list(tables))[: self.queue_size],
            "phase": torch.cat(list(phases))[: self.queue_size],
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what is remembered."""
        return dict(self.queue)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.queue = dict(state)


def majority_classes(label: Tensor, num_classes: int, grid: Sequence[int]) -> Tensor:
    """Returns the class that most voxels of every patch have, ``(B, g, h[, d])``; of equals the first.

    Args:
        label: Class indices, ``(B, 1, H, W[, D])``.
        num_classes: Number of classes, C, background included.
        grid: Numbers of patches g, h and, of volumes, d along the axes, each at least 1.
    """
    channels = one_hot(label[:, 0].long(), num_classes).movedim(-1, 1).float()
    return pool_to_grid(channels, grid).argmax(dim=1)


def patch_contrast(projections: Tensor, label: Tensor, num_classes: int, *, temperature: float = 0.1) -> Tensor:
    """Returns the supervised contrastive loss of patches: those of the same majority class are positive pairs.

    Ours, a dense form of the source's pairs; the like of it are pixel-wise contrasts (Wang et al., ICCV 2021).

    Args:
        projections: Projections of patches, ``(B, D, g, h[, d])``, of length 1.
        label: Class indices of the frames, ``(B, 1, H, W[, D])``.
        num_classes: Number of classes, C, background included.
        temperature: Temperature, above 0. 0.1 by default.
    """
    classes = majority_classes(label, num_classes, projections.shape[2:]).flatten()
    rows = projections.movedim(1, -1).flatten(0, -2)
    same = (classes[:, None] == classes[None]).fill_diagonal_(False)
    return supervised_contrastive_loss(rows, same, temperature=temperature)
