"""Trains on mixed pairs of images in place of the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..augmentation import draw_pairs, mix_pairs
from ..errors import ConfigError
from .iteration import Terms, generator_of_step, train_on_terms


class MixupStep:
    """Trains with mixup: each image of a batch is mixed with another one of it, and so are their labels.

    The loss must take probabilities as labels, as MONAI's ``DiceLoss`` does. In multi-task training, pairs are of all
    data sets.

    Args:
        mixup_alpha: Both parameters of the Beta distribution of the shares, above 0. Default 0.2.
        seed: Seed of the draws, at least 0. Default 0.

    Raises:
        ConfigError: When ``mixup_alpha`` is not above 0.
    """

    def __init__(self, *, mixup_alpha: float = 0.2, seed: int = 0) -> None:
        if not mixup_alpha > 0:
            raise ConfigError(f"mixup_alpha is {mixup_alpha}; accepted are numbers above 0")
        self.mixup_alpha, self.seed = mixup_alpha, seed

    def __call__(self, engine: Any, batchdata: Mapping[str, Any]) -> Terms:
        """Runs one iteration of MONAI's trainer; returns the loss and its terms, detached."""
        generator = generator_of_step(engine, self.seed)
        partners, shares = draw_pairs(len(batchdata["image"]), self.mixup_alpha, generator)
        losses = partial(mixed_losses, loss=engine.loss_function, partners=partners, shares=shares)
        return train_on_terms(engine, {name: batchdata[name] for name in ("image", "label")}, losses)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: draws depend on the step alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""


def mixed_losses(
    network: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    partners: Tensor,
    shares: Tensor,
) -> Terms:
    """Returns the loss of the mixed images of a batch.

    Args:
        network: Network in training mode.
        batch: Tensors ``image`` and ``label`` on the network's device.
        loss: Loss of logits and probabilities.
        partners: Number of the image that each is mixed with, see :func:`draw_pairs`.
        shares: Share of each image itself, see :func:`draw_pairs`.
    """
    images, labels = mix_pairs(batch["image"], batch["label"], partners, shares)
    return {"segmentation": loss(network(images), labels)}
