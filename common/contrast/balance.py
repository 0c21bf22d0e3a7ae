"""Keeps what frames learn beside the segmentation in proportion to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..engine.iteration import Terms
from ..errors import ConfigError
from ..handlers.balance import gradient_norms

TermBalance = Literal["constant", "decline", "gradient"]


class LossBalance:
    """Gives every side task of a training its weight.

    ``constant`` multiplies the contrastive term by ``alpha`` and the classification by ``beta``. ``decline`` lets both
    weights fall to 0, linearly over the training. ``gradient`` makes the gradient of each term, on the weights that all
    share, ``alpha`` or ``beta`` times that of the segmentation: norms are measured in the first iteration and every
    ``norm_interval`` iterations, and the factors stay in between. While there is no segmentation, in the first of two
    steps, weights are ``alpha`` and ``beta`` themselves.

    Of several processes, each measures its own part of the batch.

    Args:
        alpha: Weight of the contrastive term, at least 0. 0.1 by default; the source gives none.
        beta: Weight of the classification, at least 0. 0.1 by default; the source gives none.
        term_balance: Way of weighing: ``constant``, the default, ``decline`` or ``gradient``.
        norm_interval: Number of iterations between measurements, at least 1. 50 by default.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        beta: float = 0.1,
        term_balance: TermBalance = "constant",
        norm_interval: int = 50,
    ) -> None:
        if not alpha >= 0 or not beta >= 0:
            raise ConfigError(f"alpha {alpha}, beta {beta}: accepted are weights of at least 0")
        if term_balance not in get_args(TermBalance):
            raise ConfigError(f"term_balance is {term_balance!r}; accepted are {', '.join(get_args(TermBalance))}")
        if norm_interval < 1:
            raise ConfigError(f"norm_interval is {norm_interval}; accepted are numbers of iterations from 1")
        self.weights, self.term_balance = {"contrastive": alpha, "classification": beta}, term_balance
        self.norm_interval = norm_interval
        self.factors: dict[str, Tensor] = {}

    def weigh(self, terms: Terms, parameters: Iterable[nn.Parameter], *, iteration: int, share: float) -> Terms:
        """Returns the terms, each with its weight; those of other names are left as they are.

        Args:
            terms: Name -> scalar loss without its weight, with its graph.
            parameters: Weights that all terms share.
            iteration: Number of the iteration, from 1.
            share: Share of the training that is done, in [0, 1].
        """
        weights: dict[str, Any] = {name: weight for name, weight in self.weights.items() if name in terms}
        segments = "segmentation" in terms and terms["segmentation"].requires_grad
        if self.term_balance == "decline":
            weights = {name: weight * (1 - share) for name, weight in weights.items()}
        elif self.term_balance == "gradient" and weights and segments:
            if not self.factors or iteration % self.norm_interval == 0:
                self._measure(terms, parameters)
            weights = {name: weight * self.factors[name] for name, weight in weights.items()}
        return {name: weights[name] * term if name in weights else term for name, term in terms.items()}

    def _measure(self, terms: Terms, parameters: Iterable[nn.Parameter]) -> None:
        """Finds how many times the gradient of each side task goes into that of the segmentation."""
        measured = {name: terms[name] for name in ("segmentation", *self.weights) if name in terms}
        norms = gradient_norms(measured, parameters)
        own = norms.pop("segmentation")
        # A term that pulls at nothing, as where no frame has a positive, keeps a factor that is finite.
        self.factors = {name: torch.where(norm > 0, own / norm.clamp_min(1e-12), own) for name, norm in norms.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns the factors."""
        return dict(self.factors)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.factors = dict(state)
