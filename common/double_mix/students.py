"""Runs one iteration in which each network learns by itself, from labels and from its own teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..class_weights import ClassWeight, most_probable
from ..engine.iteration import train_on_terms
from ..errors import ConfigError
from ..handlers.epochs import total_iterations
from ..networks.averaging import EMANetwork
from ..runtime.distributed import unwrap
from .loader import pad_alike
from .losses import WeightedSegmentationLoss

Batch = Mapping[str, Tensor]
Terms = dict[str, Tensor]


class StudentStep(ABC):
    """One iteration of a rival of Double-Mix, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    A rival sees the same batches as co-training, with the same loss of labeled images. The papers have one network,
    a :class:`~.network.SingleStudent`; of two, each learns by itself, and both answer together.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        ema: Average of the networks, for rivals whose teacher is one. ``None`` by default.
        generator: Generator of all draws, on the CPU. With ``None``, the default, torch's own.

    Raises:
        ConfigError: When a rival needs an average and is given none.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "unsupervised")
    """Names of the terms of the loss."""

    averages: ClassVar[bool] = True
    """Whether the teacher is the average, which the step moves then."""

    def __init__(
        self,
        network: nn.Module,
        loss: WeightedSegmentationLoss,
        *,
        ema: EMANetwork | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if self.averages and ema is None:
            raise ConfigError("ema is None, but averages teach in this method; give an average")
        self.device = next(network.parameters()).device
        self.students = len(members_of(network))
        self.loss, self.ema, self.generator = loss, ema, generator
        self.class_weights: list[ClassWeight] = []

    @property
    def moved_average(self) -> EMANetwork | None:
        """Average that the step moves; ``None`` where nobody learns from one."""
        return self.ema if self.averages else None

    @property
    def members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next, for checkpoints."""
        return {"ema": self.ema} if self.ema is not None else {}

    def teachers(self, network: nn.Module) -> list[nn.Module]:
        """Returns the networks that make pseudo labels: those of the average, or the students themselves.

        Args:
            network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        """
        return members_of(network if self.moved_average is None else self.moved_average.module)

    def label(self, logits: Tensor, _number: int = 0) -> Tensor:
        """Returns the pseudo labels ``(B, 1, H, W[, D])`` of a teacher's logits ``(B, C, H, W[, D])``.

        Args:
            logits: Logits of a teacher.
            _number: Number of that teacher, from 0; 0 by default. Here all label alike.
        """
        return most_probable(logits)

    def __call__(self, engine: Any, batchdata: Batch) -> Terms:
        """Trains on one batch of ``image``, ``label`` and ``unlabeled``; returns ``loss`` and its terms."""
        share = engine.state.iteration / total_iterations(engine)
        return train_on_terms(engine, batchdata, partial(self._losses, share=share))

    def _losses(self, network: nn.Module, batch: Batch, *, share: float) -> Terms:
        """Pads the halves of a batch alike, and returns the terms of its loss."""
        parts = [batch["image"], batch["label"].long(), batch["unlabeled"]]
        return self.losses(network, *pad_alike(parts, spatial_dims=parts[0].ndim - 2), share=share)

    @abstractmethod
    def losses(self, network: nn.Module, image: Tensor, label: Tensor, unlabeled: Tensor, *, share: float) -> Terms:
        """Returns the terms of the loss of one batch, each with its factor.

        Args:
            network: A ``CoTrainedPair`` or ``SingleStudent`` in training mode, perhaps distributed.
            image: Labeled images, ``(B, n, H, W[, D])``.
            label: Class indices of the labeled images, ``(B, 1, H, W[, D])``.
            unlabeled: Unlabeled images, of the shape of ``image``.
            share: Share of the training that is done, in (0, 1].
        """

    @torch.no_grad()
    def teach(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Moves the averages one step and returns their logits, ``(B, C, H, W[, D])`` each.

        Args:
            network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
            images: Images that the averages see, ``(B, n, H, W[, D])``.
        """
        assert self.ema is not None
        self.ema.update_parameters(network)
        answered: tuple[Tensor, ...] = self.ema.module.each(images)  # type: ignore[operator]
        return answered


def members_of(network: nn.Module) -> list[nn.Module]:
    """Returns the networks of a ``CoTrainedPair`` or ``SingleStudent``, perhaps in a data-parallel wrapper."""
    return list(unwrap(network).children())


def check_share(name: str, value: float, *, least: float = 0.0) -> None:
    """Makes sure that a setting is a share.

    Args:
        name: Name of the setting.
        value: Its value.
        least: Value that it must reach; 0 by default.

    Raises:
        ConfigError: When it is below ``least``, or above 1.
    """
    if not least <= value <= 1:
        raise ConfigError(f"{name} is {value}; accepted is a share from {least:g} to 1")
