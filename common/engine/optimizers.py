"""Makes optimizers by name, schedules counted in iterations, and clips gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..errors import ConfigError

OptimizerName = Literal["adam", "adamw", "sgd"]


def make_optimizer(
    optimizer: OptimizerName,
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    amsgrad: bool = False,
) -> Optimizer:
    """Returns a fused optimizer by its name.

    Args:
        optimizer: ``"adam"``, ``"adamw"`` (decay apart from the gradient), or ``"sgd"`` with Nesterov's momentum.
        parameters: Parameters of the network.
        learning_rate: Learning rate, above 0.
        weight_decay: Weight decay, from 0; 0 by default.
        momentum: Momentum of SGD in [0, 1); 0.9 by default. Adam does not use it.
        amsgrad: Whether Adam keeps the largest second moment so far; SGD does not use it.

    Raises:
        ConfigError: when there is no such optimizer, or a number is out of range.
    """
    if optimizer not in get_args(OptimizerName):
        raise ConfigError(f"optimizer is {optimizer!r}; accepted are {', '.join(get_args(OptimizerName))}")
    if not learning_rate > 0 or not weight_decay >= 0 or not 0 <= momentum < 1:
        raise ConfigError(
            f"learning_rate is {learning_rate}, weight_decay {weight_decay} and momentum {momentum}; accepted are a "
            "rate above 0, a decay from 0 and a momentum from 0 and below 1"
        )
    shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "fused": True}
    if optimizer == "sgd":
        return SGD(parameters, momentum=momentum, nesterov=momentum > 0, **shared)
    return (Adam if optimizer == "adam" else AdamW)(parameters, amsgrad=amsgrad, **shared)


def polynomial_decline(step: int, *, iterations: int, warm_up: int = 0, power: float = 0.9) -> float:
    """Returns the factor of the learning rate in a step: a linear rise, then ``(1 - share) ** power``.

    Args:
        step: Number of the step, from 0.
        iterations: Steps of the whole training; later steps have the factor 0.
        warm_up: Steps of the rise, from 0; the first has the factor ``1 / warm_up``.
        power: Exponent of the decline, from 0; 0 keeps the rate, 0.9 is usual in segmentation.

    Example:
        >>> [round(polynomial_decline(step, iterations=6, warm_up=2, power=1), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warm_up:
        return (step + 1) / warm_up
    share = (step - warm_up) / max(iterations - warm_up, 1)
    return float(max(1 - share, 0.0) ** power) if step < iterations else 0.0


class IterationSchedule:
    """Sets the learning rate by :func:`polynomial_decline` after every iteration.

    Args:
        optimizer: Optimizer whose rates are set, each as a factor of its own first rate.
        iterations: Steps of the whole training, at least 1.
        warm_up: Share of the steps in which the rate rises, in [0, 1); 0 by default.
        power: Exponent of the decline, from 0; 0.9 by default.

    Raises:
        ConfigError: when a number is out of range.
    """

    def __init__(self, optimizer: Optimizer, *, iterations: int, warm_up: float = 0.0, power: float = 0.9) -> None:
        if iterations < 1 or not 0 <= warm_up < 1 or not power >= 0:
            raise ConfigError(
                f"iterations is {iterations}, warm_up {warm_up} and power {power}; accepted are at least one "
                "iteration, a share from 0 and below 1, and a power from 0"
            )
        self.optimizer, self.step, self.base = optimizer, 0, [group["lr"] for group in optimizer.param_groups]
        warm_steps = round(warm_up * iterations)
        self.factor = partial(polynomial_decline, iterations=iterations, warm_up=warm_steps, power=power)
        self._set_rates()

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, _engine: Engine) -> None:
        """Sets the rate of the next iteration."""
        self.step += 1
        self._set_rates()

    def _set_rates(self) -> None:
        """Gives every group of the optimizer the rate of this step."""
        for group, rate in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = rate * self.factor(self.step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the step and the first rates."""
        return {"step": self.step, "base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, and sets the rates of that step."""
        self.step, self.base = int(state["step"]), [float(rate) for rate in state["base"]]
        self._set_rates()


class GradientClipping:
    """Scales gradients down, before each step of the optimizer, where their norm is above a limit.

    Args:
        network: Network whose gradients are clipped together.
        max_norm: Largest Euclidean norm, above 0; ``None`` clips nothing.

    Raises:
        ConfigError: when the limit is not above 0.
    """

    def __init__(self, network: nn.Module, max_norm: float | None) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ConfigError(f"max_norm is {max_norm}; accepted are numbers above 0, or null for no limit")
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Attaches to MONAI's trainer, between the backward pass and the step."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, _engine: Engine) -> None:
        """Clips, without waiting for the device."""
        assert self.max_norm is not None
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm, error_if_nonfinite=False)
