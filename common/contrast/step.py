"""Runs one iteration of training with class-wise pairs, or with a method it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..engine.iteration import Terms, train_on_terms
from ..errors import ConfigError
from ..handlers.epochs import total_iterations
from ..networks.averaging import EMANetwork
from ..runtime.distributed import unwrap
from .balance import LossBalance
from .heads import HeadedNetwork
from .losses import byol_loss, presence_loss, simclr_loss
from .methods import find_method
from .pairs import PairLoss, patch_contrast
from .teaching import PresenceTeaching

ScaleReduction = Literal["mean", "sum"]


class ContrastiveStep:
    """One iteration, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.

    ``L = segmentation + alpha * contrastive + beta * classification`` (Zhang et al. 2024): segmentation of the frames
    with masks, contrastive on all frames and scales, classification of the frames without masks. With two steps, the
    first trains encoder and heads without masks. The second trains the decoder alone, with masks, or everything.

    What a frame without a mask is known to show may teach its segmentation as well, see :class:`PresenceTeaching`.

    Args:
        network: A :class:`HeadedNetwork`, perhaps distributed.
        loss: Loss that takes the logits and class indices of the frames with masks.
        num_classes: Number of classes, C, background included.
        method: Name of the method, one of ``METHODS``; ``both`` by default.
        pairs: Loss of the projections; ``None``, the default, for ``PairLoss()``.
        balance: Weights of contrastive term and classification; ``None``, the default, for ``LossBalance()``.
        teaching: Losses on the segmentation of frames without masks; ``None``, the default, for none.
        scale_reduction: Way to join the scales: ``mean``, the default, or ``sum``, the source's.
        pretrain_epochs: Number of epochs of the first step. 0, the default, trains everything together.
        fine_tune: Whether the second step trains the encoder as well. False by default.
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
        num_classes: int,
        method: str = "both",
        pairs: PairLoss | None = None,
        balance: LossBalance | None = None,
        teaching: PresenceTeaching | None = None,
        scale_reduction: ScaleReduction = "mean",
        pretrain_epochs: int = 0,
        fine_tune: bool = False,
        classify_all: bool = False,
        ema_decay: float = 0.99,
    ) -> None:
        self.loss, self.num_classes, self.method = loss, num_classes, find_method(method)
        self.patch_grid = getattr(unwrap(network), "patch_grid", None)
        if scale_reduction not in get_args(ScaleReduction):
            raise ConfigError(
                f"scale_reduction is {scale_reduction!r}; accepted are {' and '.join(get_args(ScaleReduction))}"
            )
        if self.patch_grid is not None and (self.method.pairs != "classes" or pretrain_epochs):
            raise ConfigError(
                f"patch_grid is {self.patch_grid}, but masks alone name the classes of patches: it goes with method "
                "contrastive or both in one step; set it to none"
            )
        if fine_tune and not pretrain_epochs:
            raise ConfigError("fine_tune is set, but goes with two steps alone: set two_step, or leave it out")
        self.pairs = PairLoss() if pairs is None else pairs
        if self.patch_grid is not None and not self.pairs.compares_equals:
            raise ConfigError(
                f"patch_grid is {self.patch_grid}, but patches have one class each and are compared within their "
                "batch: set positives to equal and queue_size to 0, or patch_grid to none"
            )
        self.balance = LossBalance() if balance is None else balance
        self.teaching = PresenceTeaching() if teaching is None else teaching
        self.scale_reduction, self.pretrain_epochs, self.fine_tune = scale_reduction, pretrain_epochs, fine_tune
        self.classify_all = classify_all
        # Made once: a number that is copied to the device in every step would have to be waited for.
        self.temperature = torch.tensor(self.pairs.temperature, device=next(network.parameters()).device)
        self.ema = EMANetwork(network, ema_decay=ema_decay) if self.method.pairs == "byol" else None

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss; in two steps each has a value only in its own, and is 0 in the other."""
        used = {"contrastive": self.method.pairs != "none", "classification": self.method.classifies}
        return ("segmentation", *(name for name, is_used in used.items() if is_used), *self.teaching.terms)

    @property
    def moved_average(self) -> EMANetwork | None:
        """Average that the step moves, since it makes pseudo labels; ``None`` where nobody does."""
        return self.teaching.teacher

    @property
    def _members(self) -> dict[str, Any]:
        """Name -> what the step remembers from one iteration to the next."""
        members = {"pairs": self.pairs, "balance": self.balance, "teaching": self.teaching}
        return members | ({} if self.ema is None else {"ema": self.ema})

    def state_dict(self) -> dict[str, Any]:
        """Returns what the steps so far have left behind: averages, earlier projections and factors."""
        return {name: state for name, member in self._members.items() if (state := member.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for name, member in self._members.items():
            if name in state:
                member.load_state_dict(state[name])

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> Terms:
        """Trains on a batch of ``image``, ``label`` of the first images, ``presence``, ``phase`` and perhaps ``view``.

        Args:
            engine: Trainer of MONAI, which knows the epoch.
            batchdata: Batch of a ``PairLoader``.

        Returns:
            ``loss`` and its terms.
        """
        state = engine.state
        total, done = total_iterations(engine), state.iteration
        first = self.pretrain_epochs * (state.epoch_length or 0)
        # The second step begins anew: what rises in its course must not be at its height from the start.
        share = (done - first) / (total - first) if done > first else done / total
        place = {"iteration": done, "share": share}
        return train_on_terms(engine, batchdata, partial(self.losses, epoch=state.epoch, **place))

    def losses(
        self, network: nn.Module, batch: Mapping[str, Tensor], *, epoch: int = 1, iteration: int = 1, share: float = 0.0
    ) -> Terms:
        """Returns the terms of the loss of one batch.

        Args:
            network: A :class:`HeadedNetwork` in training mode, perhaps distributed.
            batch: Batch as a call takes it.
            epoch: Number of the epoch, from 1, which tells the step. 1 by default.
            iteration: Number of the iteration, from 1. 1 by default.
            share: Share of the training that is done, in [0, 1], or of the second step in that. 0 by default.
        """
        pretrains = epoch <= self.pretrain_epochs
        if self.pretrain_epochs and not pretrains:
            return self._decode(network, batch, share)
        images = torch.cat([batch["image"], batch["view"]]) if self.method.uses_views else batch["image"]
        labeled = len(batch["label"])
        # Apart: frames with masks are few and seen often, and must not be told by the statistics that all share.
        found = network(images, apart=0 if pretrains else labeled, segment=not pretrains)
        terms = dict.fromkeys(self.terms, images.new_zeros(()))
        if not pretrains:
            terms |= self._segment(network, found["logits"], batch, share)
        if self.method.pairs != "none":
            each = torch.stack(self._contrast(network, found, images, batch))
            terms["contrastive"] = each.mean() if self.scale_reduction == "mean" else each.sum()
        if self.method.classifies:
            first = 0 if self.classify_all else labeled
            terms["classification"] = presence_loss(found["presence"][first:], batch["presence"][first:])
        return self.balance.weigh(terms, _headed(network).encoder_parameters(), iteration=iteration, share=share)

    def _decode(self, network: nn.Module, batch: Mapping[str, Tensor], share: float) -> Terms:
        """The terms of the second step: what is learned from masks, and by the decoder from classes alone."""
        if not self.fine_tune:
            _headed(network).freeze_encoder()
        labeled = len(batch["label"])
        images = batch["image"] if self.teaching.terms else batch["image"][:labeled]
        logits = network(images, apart=labeled, with_heads=False)["logits"]
        return dict.fromkeys(self.terms, logits.new_zeros(())) | self._segment(network, logits, batch, share)

    def _segment(self, network: nn.Module, logits: Tensor, batch: Mapping[str, Tensor], share: float) -> Terms:
        """The losses of the segmentation: of frames with masks, which are the first, and of the others."""
        labeled, count = len(batch["label"]), len(batch["image"])
        terms = {"segmentation": self.loss(logits[:labeled].float(), batch["label"].long())}
        if not self.teaching.terms:
            return terms
        images, presence = batch["image"][labeled:], batch["presence"][labeled:]
        own = _headed(network).network
        return terms | self.teaching.losses(own, images, logits[labeled:count], presence, share=share)

    def _contrast(
        self, network: nn.Module, found: Mapping[str, Sequence[Tensor]], images: Tensor, batch: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """The contrastive loss of every scale."""
        projections = found["projections"]
        if self.ema is not None:
            self.ema.update_parameters(network)
            with torch.no_grad():
                targets = self.ema.module(images, segment=False)["projections"]
            return [byol_loss(*pair) for pair in zip(found["predictions"], targets, strict=True)]
        if self.method.uses_views:
            return [simclr_loss(item, temperature=self.temperature) for item in projections]
        if self.patch_grid is not None:
            label, settings = batch["label"], {"temperature": self.pairs.temperature}
            masked = [item[: len(label)] for item in projections]
            return [patch_contrast(item, label, self.num_classes, **settings) for item in masked]
        return self.pairs(projections, batch["presence"], batch["phase"])


def _headed(network: nn.Module) -> HeadedNetwork:
    """The network with heads, without a data-parallel wrapper."""
    headed = unwrap(network)
    assert isinstance(headed, HeadedNetwork)
    return headed
