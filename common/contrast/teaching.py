"""Lets what a frame without a mask is known to show reach the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ..engine.iteration import Terms
from ..engine.ramps import gaussian_rise
from ..errors import ConfigError
from ..networks.averaging import EMANetwork

IGNORED = -1
"""Class of a pixel that nothing is learned from."""


def probability_of_presence(logits: Tensor, share: float = 0.005) -> Tensor:
    """Returns how probable a segmentation makes it that each class is there, ``(B, C - 1)`` in [0, 1].

    It is the mean of the softmax over the most probable pixels, as in weakly supervised segmentation from classes of
    images; a mean over all pixels would ask for large objects, the largest alone for single pixels.

    Args:
        logits: Logits of a segmentation, ``(B, C, H, W[, D])``.
        share: Share of the pixels that count, in (0, 1], at least one pixel. 0.005 by default.
    """
    _, shown, _ = _most_probable(logits, share)
    return shown.exp().mean(dim=2)


def _most_probable(logits: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of the softmax, ``(B, C, N)``, and for each class of the foreground those that count and where."""
    chances = logits.float().log_softmax(dim=1).flatten(2)
    number = max(1, round(share * chances.shape[2]))
    return chances, *chances[:, 1:].topk(number, dim=2)


def decoder_presence_loss(logits: Tensor, presence: Tensor, share: float = 0.005) -> Tensor:
    """Returns the binary cross entropy of :func:`probability_of_presence`, the mean over frames and classes.

    All is taken in logarithms, since a class that a segmentation rules out is the one that must be found: a probability
    that is rounded to 0 or 1 would have no gradient.

    Args:
        logits: Logits of a segmentation, ``(B, C, H, W[, D])``; at least one frame.
        presence: Table of classes, ``(B, C - 1)``: 1 where a frame shows a class, 0 where it does not, and below 0
            where nothing tells, which does not count.
        share: Share of the pixels that count, in (0, 1]. 0.005 by default.
    """
    chances, shown, places = _most_probable(logits, share)
    # What every class, ``(B, C, C - 1, number)``, has at the pixels that count for each class of the foreground.
    found = chances.gather(2, places.flatten(1)[:, None].expand(-1, chances.shape[1], -1))
    found = found.unflatten(2, places.shape[1:])
    own = pad(torch.eye(places.shape[1], dtype=torch.bool, device=found.device), (0, 0, 1, 0))
    absent = found.masked_fill(own[None, :, :, None], -torch.inf).logsumexp(dim=(1, 3))
    known, target = presence >= 0, (presence > 0).to(shown)
    chance = target * shown.logsumexp(dim=2) + (1 - target) * absent - math.log(shown.shape[2])
    return -(chance * known).sum() / known.sum().clamp(min=1)


def gated_pseudo_labels(logits: Tensor, presence: Tensor, confidence: float = 0.0) -> Tensor:
    """Returns the most probable class of every pixel among background and those that the frame is known to show.

    Args:
        logits: Logits of a teacher, ``(B, C, H, W[, D])``.
        presence: Table of classes, ``(B, C - 1)``, above 0 where a frame shows a class; no pixel counts of a frame of
            which nothing tells the classes, below 0.
        confidence: Smallest probability, among the classes that may be, of a pixel that counts, in [0, 1]. 0 by
            default: all count.

    Returns:
        ``(B, H, W[, D])`` int64, -1 where a pixel does not count.
    """
    allowed = pad(presence > 0, (1, 0), value=True)
    allowed = allowed.reshape(*allowed.shape, *[1] * (logits.ndim - 2))
    probability, label = logits.float().masked_fill(~allowed, -torch.inf).softmax(dim=1).max(dim=1)
    unknown = (presence < 0).any(dim=1).reshape(-1, *[1] * (label.ndim - 1))
    return label.masked_fill((probability < confidence) | unknown, IGNORED)


def pseudo_label_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Returns the cross entropy of logits ``(B, C, *)`` and labels ``(B, *)``: the mean over all pixels.

    Pixels that do not count have a loss of 0 and are part of the mean, so that a few certain ones do not weigh as much
    as a whole frame.
    """
    return cross_entropy(logits.float(), label, ignore_index=IGNORED, reduction="none").mean()


class PresenceTeaching:
    """Losses on the segmentation of frames without masks, from the classes that they are known to show.

    Ours, not the source's: a classifier on the deepest features leaves the decoder as it is. The weights rise over the
    first part of the training, see :func:`~..engine.ramps.gaussian_rise`.

    Args:
        presence_weight: Weight of :func:`decoder_presence_loss`, at least 0; 0 leaves it out. 0 by default.
        presence_share: Share of the pixels that tell whether a class is there, in (0, 1]. 0.005 by default.
        pseudo_weight: Weight of pseudo labels, at least 0; 0 leaves them out. 0 by default. An average of the network
            makes them, see :func:`gated_pseudo_labels`.
        pseudo_confidence: Smallest probability of a pixel whose pseudo label counts, in [0, 1]. 0 by default.
        ramp_share: Share of the training in which both weights rise, in [0, 1]. 0.3 by default.
        ema_decay: Largest decay of the average that makes pseudo labels, in [0, 1]. 0.99 by default.
        network: Network that is averaged; needed for pseudo labels alone. ``None`` by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        *,
        presence_weight: float = 0.0,
        presence_share: float = 0.005,
        pseudo_weight: float = 0.0,
        pseudo_confidence: float = 0.0,
        ramp_share: float = 0.3,
        ema_decay: float = 0.99,
        network: nn.Module | None = None,
    ) -> None:
        for name, weight in (("presence_weight", presence_weight), ("pseudo_weight", pseudo_weight)):
            if not weight >= 0:
                raise ConfigError(f"{name} is {weight}; accepted are weights of at least 0")
        if not 0 < presence_share <= 1:
            raise ConfigError(f"presence_share is {presence_share}; accepted is above 0, up to 1")
        for name, value in (("pseudo_confidence", pseudo_confidence), ("ramp_share", ramp_share)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; accepted are numbers from 0 to 1")
        if pseudo_weight and network is None:
            raise ConfigError("pseudo_weight is set, but there is no network to average; give one as network")
        self.weights = {"presence": presence_weight, "pseudo": pseudo_weight}
        self.presence_share, self.pseudo_confidence, self.ramp_share = presence_share, pseudo_confidence, ramp_share
        self.teacher = EMANetwork(network, ema_decay=ema_decay) if pseudo_weight and network is not None else None

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that have a weight."""
        return tuple(name for name, weight in self.weights.items() if weight)

    def losses(self, network: nn.Module, images: Tensor, logits: Tensor, presence: Tensor, *, share: float) -> Terms:
        """Returns the terms, each with its weight; all are 0 without a frame.

        Args:
            network: Network that segments, without heads; its average makes pseudo labels.
            images: Frames without masks, ``(B, n, H, W[, D])``.
            logits: What the network makes of them in training, ``(B, C, H, W[, D])``.
            presence: Table of their classes, ``(B, C - 1)``, below 0 where nothing tells them.
            share: Share of the training that is done, in [0, 1].
        """
        if not len(images):
            return dict.fromkeys(self.terms, logits.new_zeros(()))
        rise = gaussian_rise(share, self.ramp_share)
        terms: Terms = {}
        if "presence" in self.terms:
            loss = decoder_presence_loss(logits, presence, self.presence_share)
            terms["presence"] = self.weights["presence"] * rise * loss
        if self.teacher is not None:
            self.teacher.update_parameters(network)
            with torch.no_grad():
                label = gated_pseudo_labels(self.teacher.module(images), presence, self.pseudo_confidence)
            terms["pseudo"] = self.weights["pseudo"] * rise * pseudo_label_loss(logits, label)
        return terms

    def state_dict(self) -> Mapping[str, Any]:
        """Returns the average, where there is one."""
        return {} if self.teacher is None else self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if self.teacher is not None:
            self.teacher.load_state_dict(state)
