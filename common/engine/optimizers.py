"""Makes optimizers by name, and clips gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..errors import ConfigError

OptimizerName = Literal["adam", "adamw", "sgd"]


def make_optimizer(
    optimizer_name: OptimizerName,
    params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    amsgrad: bool = False,
) -> Optimizer:
    """Returns a fused optimizer by its name.

    Args:
        optimizer_name: ``adam``, ``adamw`` (decay apart from the gradient), or ``sgd`` with Nesterov's momentum.
        params: Parameters of the network, or groups of them as torch takes them.
        learning_rate: Learning rate, at least 0; 0 leaves the weights as they are.
        weight_decay: Weight decay, at least 0. 0 by default.
        momentum: Momentum of SGD, in [0, 1). 0.9 by default; the others do not use it.
        amsgrad: Whether Adam keeps the largest second moment so far. False by default; SGD does not use it.

    Raises:
        ConfigError: When there is no such optimizer, or a number is out of range.
    """
    if optimizer_name not in get_args(OptimizerName):
        raise ConfigError(f"optimizer_name is {optimizer_name!r}; accepted are {', '.join(get_args(OptimizerName))}")
    if not learning_rate >= 0 or not weight_decay >= 0 or not 0 <= momentum < 1:
        raise ConfigError(
            f"learning_rate is {learning_rate}, weight_decay {weight_decay} and momentum {momentum}; accepted are a "
            "rate from 0, a decay from 0 and a momentum from 0 and below 1"
        )
    shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "fused": True}
    if optimizer_name == "sgd":
        return SGD(params, momentum=momentum, nesterov=momentum > 0, **shared)
    return (Adam if optimizer_name == "adam" else AdamW)(params, amsgrad=amsgrad, **shared)


class GradientClipping:
    """Scales gradients down, before each step of the optimizer, where their norm is above a limit.

    Args:
        network: Network whose gradients are clipped together.
        gradient_clip: Largest Euclidean norm, above 0; ``None`` clips nothing.

    Raises:
        ConfigError: When the limit is not above 0.
    """

    def __init__(self, network: nn.Module, gradient_clip: float | None) -> None:
        if gradient_clip is not None and not gradient_clip > 0:
            raise ConfigError(
                f"gradient_clip is {gradient_clip}; accepted are numbers above 0, or null to clip nothing"
            )
        self.network, self.gradient_clip = network, gradient_clip

    def attach(self, engine: Engine) -> None:
        """Attaches to MONAI's trainer, between the backward pass and the step."""
        if self.gradient_clip is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, _engine: Engine) -> None:
        """Clips, without waiting for the device."""
        assert self.gradient_clip is not None
        nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip, error_if_nonfinite=False)
