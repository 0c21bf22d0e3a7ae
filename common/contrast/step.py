"""Runs one iteration of training with class-wise pairs, or with a method it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.iteration import Terms, train_on_terms
from ..errors import ConfigError
from ..networks.averaging import EMANetwork
from ..runtime.distributed import unwrap
from .heads import HeadedNetwork
from .losses import byol_loss, positive_pairs, presence_loss, simclr_loss, supervised_contrastive_loss
from .methods import find_method


class ContrastiveStep:
    """One iteration, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    ``L = segmentation + alpha * contrastive + beta * classification`` (Zhang et al. 2024): segmentation of the frames
    with masks, contrastive on all frames and scales, summed over the scales, classification of the frames without
    masks. With two steps, the first trains encoder and heads without masks, the second the decoder alone, with masks.

    Args:
        network: A :class:`HeadedNetwork`, perhaps distributed.
        loss: Loss that takes the logits and class indices of the frames with masks.
        method: Name of the method, one of ``METHODS``; ``both`` by default.
        alpha: Weight of the contrastive term, at least 0. 1 by default, since the source gives none.
        beta: Weight of the classification, at least 0. 1 by default.
        temperature: Temperature of the contrastive term, above 0. 0.1 by default.
        pretrain_epochs: Number of epochs of the first step. 0, the default, trains everything together.
        classify_all: Whether frames with masks are classified as well. False by default.
        ema_decay: Largest decay of the averaged network that BYOL compares with. 0.99 by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        method: str = "both",
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 0.1,
        pretrain_epochs: int = 0,
        classify_all: bool = False,
        ema_decay: float = 0.99,
    ) -> None:
        if temperature <= 0 or alpha < 0 or beta < 0:
            raise ConfigError(
                f"temperature {temperature}, alpha {alpha}, beta {beta}: accepted is a temperature above 0, and "
                "weights of at least 0"
            )
        self.loss, self.method, self.alpha, self.beta = loss, find_method(method), alpha, beta
        self.temperature, self.pretrain_epochs = temperature, pretrain_epochs
        self.classify_all = classify_all
        # Made once: a number that is copied to the device in every step would have to be waited for.
        self.tensor_temperature = torch.tensor(temperature, device=next(network.parameters()).device)
        self.ema = EMANetwork(network, ema_decay=ema_decay) if self.method.pairs == "byol" else None

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss; in two steps each has a value only in its own, and is 0 in the other."""
        used = {"contrastive": self.method.pairs != "none", "classification": self.method.classifies}
        return ("segmentation", *(name for name, is_used in used.items() if is_used))

    def state_dict(self) -> dict[str, Any]:
        """Returns what the steps so far have left behind: the averaged network, where there is one."""
        return {} if self.ema is None else self.ema.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if self.ema is not None:
            self.ema.load_state_dict(state)

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> Terms:
        """Trains on a batch of ``image``, ``label`` of the first images, ``presence``, ``phase`` and perhaps ``view``.

        Args:
            engine: Trainer of MONAI, which knows the epoch.
            batchdata: Batch of a ``PairLoader``.

        Returns:
            ``loss`` and its terms.
        """
        return train_on_terms(engine, batchdata, partial(self.losses, epoch=engine.state.epoch))

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor], *, epoch: int = 1) -> Terms:
        """Returns the terms of the loss of one batch.

        Args:
            network: A :class:`HeadedNetwork` in training mode, perhaps distributed.
            batch: Batch as a call takes it.
            epoch: Number of the epoch, from 1, which tells the step. 1 by default.
        """
        pretrains = epoch <= self.pretrain_epochs
        if self.pretrain_epochs and not pretrains:
            return self._decode(network, batch)
        images = torch.cat([batch["image"], batch["view"]]) if self.method.uses_views else batch["image"]
        found = network(images, segment=not pretrains)
        terms = dict.fromkeys(self.terms, images.new_zeros(()))
        if not pretrains:
            terms["segmentation"] = self._segmentation(found["logits"], batch["label"])
        if self.method.pairs != "none":
            terms["contrastive"] = self.alpha * self._contrast(network, found, images, batch)
        if self.method.classifies:
            first = 0 if self.classify_all else len(batch["label"])
            terms["classification"] = self.beta * presence_loss(found["presence"][first:], batch["presence"][first:])
        return terms

    def _decode(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Terms:
        """The terms of the second step: what the decoder learns on top of a frozen encoder."""
        headed = unwrap(network)
        assert isinstance(headed, HeadedNetwork)
        headed.freeze_encoder()
        labels = batch["label"]
        logits = network(batch["image"][: len(labels)], with_heads=False)["logits"]
        return dict.fromkeys(self.terms, logits.new_zeros(())) | {"segmentation": self._segmentation(logits, labels)}

    def _segmentation(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of the frames with masks, which are the first of the batch."""
        return self.loss(logits[: len(label)].float(), label.long())

    def _contrast(
        self, network: nn.Module, found: Mapping[str, Sequence[Tensor]], images: Tensor, batch: Mapping[str, Tensor]
    ) -> Tensor:
        """The contrastive loss, summed over the scales."""
        projections = found["projections"]
        if self.ema is not None:
            self.ema.update_parameters(network)
            with torch.no_grad():
                targets = self.ema.module(images, segment=False)["projections"]
            each = [byol_loss(*pair) for pair in zip(found["predictions"], targets, strict=True)]
        elif self.method.uses_views:
            each = [simclr_loss(item, temperature=self.tensor_temperature) for item in projections]
        else:
            positive = positive_pairs(batch["presence"], batch["phase"])
            each = [supervised_contrastive_loss(item, positive, temperature=self.temperature) for item in projections]
        return torch.stack(each).sum()
