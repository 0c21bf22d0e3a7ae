"""Makes the mixed images that networks learn from, in one direction or in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from .mixing import Mixing

MixDirection = Literal["into_labeled", "both"]
Pairs = tuple[list[Tensor], list[Tensor]]


class MixedPairs:
    """Mixes two halves of a batch, for each network with its own labels and class weights.

    Args:
        mixing: Function that pastes one image into another.
        mix_direction: What is pasted: ``into_labeled``, parts of the unlabeled images into labeled ones, as in the
            source; ``both``, the reverse for every other image of a batch as well. With it, networks also see labeled
            parts in the surroundings of unlabeled patients (Bai et al., CVPR 2023). ``into_labeled`` by default.
        generator: Generator of the draws; on the CPU, so that no draw waits for a GPU. With ``None``, the default,
            torch's own.

    Raises:
        ConfigError: When there is no such direction.
    """

    def __init__(
        self,
        mixing: Mixing,
        *,
        mix_direction: MixDirection = "into_labeled",
        generator: torch.Generator | None = None,
    ) -> None:
        if mix_direction not in get_args(MixDirection):
            raise ConfigError(
                f"mix_direction is {mix_direction!r}; accepted are {' and '.join(get_args(MixDirection))}"
            )
        self.mixing, self.mix_direction, self.generator = mixing, mix_direction, generator

    def __call__(
        self,
        unlabeled: Tensor,
        pseudo: Sequence[Tensor],
        image: Tensor,
        label: Tensor,
        weights: Sequence[Tensor],
    ) -> Pairs:
        """Returns the mixed images and labels of all networks.

        Args:
            unlabeled: Images that parts are taken of, ``(B, n, H, W[, D])``.
            pseudo: Their labels for each network, class indices ``(B, 1, H, W[, D])``.
            image: Images that parts are pasted into, of the shape of ``unlabeled``.
            label: Their labels, class indices.
            weights: Class weights of each network, ``(C,)``.
        """
        mixed = [
            self._mix(unlabeled, guessed, image, label.to(guessed.dtype), weight)
            for guessed, weight in zip(pseudo, weights, strict=True)
        ]
        return [pair[0] for pair in mixed], [pair[1] for pair in mixed]

    def among_labeled(self, image: Tensor, label: Tensor, weights: Sequence[Tensor]) -> Pairs:
        """Returns each labeled image with parts of the one before it, the first with some of the last, and labels.

        Arguments are those of the call. A batch of one labeled image comes back as it is.
        """
        return self(image.roll(1, dims=0), [label.roll(1, dims=0)] * len(weights), image, label, weights)

    def _mix(self, unlabeled: Tensor, pseudo: Tensor, image: Tensor, label: Tensor, weight: Tensor) -> Sequence[Tensor]:
        """The mixed images and labels of one network."""
        if self.mix_direction == "into_labeled":
            return self.mixing(unlabeled, pseudo, image, label, weight, generator=self.generator)[:2]
        reverse = self._reversed(image)
        source, source_label = torch.where(reverse, image, unlabeled), torch.where(reverse, label, pseudo)
        target, target_label = torch.where(reverse, unlabeled, image), torch.where(reverse, pseudo, label)
        return self.mixing(source, source_label, target, target_label, weight, generator=self.generator)[:2]

    def _reversed(self, image: Tensor) -> Tensor:
        """Which images are pasted rather than pasted into: every other one, the first or the second by lot."""
        lot = torch.randint(2, (1,), generator=self.generator)
        reverse = (torch.arange(len(image)) + lot) % 2 == 1
        return reverse.reshape(-1, *[1] * (image.ndim - 1)).to(image.device, non_blocking=True)
