"""Makes schedules of the learning rate, counted in iterations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from ..errors import ConfigError
from ..handlers import PlateauSchedule
from ..handlers.epochs import total_iterations
from ..runtime.run_settings import ComparedOnResume

PLATEAU = "plateau"

BODY = "body"
"""Mark of a group of parameters that may rest at first."""


def polynomial_decline(share: float, *, schedule_power: float = 0.9) -> float:
    """Returns ``(1 - share) ** schedule_power``, the factor of the learning rate after a share of the training.

    Args:
        share: Share of the training that is done, in [0, 1].
        schedule_power: Exponent, at least 0. 0.9, usual in segmentation, by default; 0 keeps the rate.

    Example:
        >>> polynomial_decline(0.75, schedule_power=0.5)
        0.5
    """
    return float((1 - share) ** schedule_power)


def cosine_decline(share: float) -> float:
    """Returns ``(1 + cos(pi * share)) / 2``, without restarts (Loshchilov and Hutter, ICLR 2017, equation 5).

    Args:
        share: Share of the training that is done, in [0, 1].
    """
    return (1 + math.cos(math.pi * share)) / 2


def step_decline(share: float, *, schedule_share: float = 0.7, schedule_factor: float = 0.1) -> float:
    """Returns 1 before a share of the training is done, and a factor afterwards.

    Args:
        share: Share of the training that is done, in [0, 1].
        schedule_share: Share after which the rate falls, in [0, 1]. 0.7 by default.
        schedule_factor: Factor of the rate from there on, above 0. 0.1 by default.
    """
    return 1.0 if share < schedule_share else schedule_factor


DECLINES: dict[str, Callable[..., float]] = {
    "polynomial": polynomial_decline,
    "cosine": cosine_decline,
    "step": step_decline,
}
"""Name of a decline -> factor of the learning rate after a share of the training."""


class IterationSchedule(ComparedOnResume):
    """Sets the learning rate before every iteration: a linear rise, then a decline over what is left of the training.

    The length of the training is read from its engine, so stages of different lengths may share one. Nothing is kept
    from one iteration to the next, so a resumed training has the rates that an uninterrupted one would.

    Args:
        optimizer: Optimizer whose rates are set, each as a factor of its own first rate.
        decline: Factor of the rate as a function of the share of the training that is done after the rise.
        warm_up: Share of the training in which the rate rises, in [0, 1). 0 by default.
        head_share: Share of the training, in (0, 1), in which groups of the optimizer that are marked as ``body`` have
            a rate of 0, so that a fresh head does not spoil them. None by default: they never rest.

    Raises:
        ConfigError: When a share is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        decline: Callable[[float], float],
        *,
        warm_up: float = 0.0,
        head_share: float | None = None,
    ) -> None:
        if not 0 <= warm_up < 1:
            raise ConfigError(f"warm_up is {warm_up}; accepted are shares of the training from 0 and below 1")
        if head_share is not None and not 0 < head_share < 1:
            raise ConfigError(f"head_share is {head_share}; accepted are shares of the training in (0, 1), or null")
        self.optimizer, self.decline, self.warm_up, self.head_share = optimizer, decline, warm_up, head_share
        self.base = [group["lr"] for group in optimizer.param_groups]

    def attach(self, engine: Engine) -> None:
        """Attaches to a training engine."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Sets the rates of the iteration that starts."""
        done, total = engine.state.iteration - 1, total_iterations(engine)
        factor, rests = self.factor(done, total), done < (self.head_share or 0.0) * total
        for group, rate in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = 0.0 if rests and group.get(BODY) else rate * factor

    def factor(self, done: int, total: int) -> float:
        """Returns the factor of the rates of an iteration.

        Args:
            done: Number of iterations before it.
            total: Number of iterations of the whole training, at least 1.
        """
        rise = round(self.warm_up * total)
        if done < rise:
            return (done + 1) / rise
        return self.decline(min((done - rise) / max(total - rise, 1), 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the first rates."""
        return {"base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.base = [float(rate) for rate in state["base"]]


def make_schedule(
    optimizer: Optimizer,
    decline: str = "polynomial",
    *,
    warm_up: float = 0.0,
    head_share: float | None = None,
    val_interval: int = 1,
    **settings: Any,
) -> IterationSchedule | PlateauSchedule:
    """Returns a schedule of the learning rate by the name of its decline.

    Args:
        optimizer: Optimizer whose rates are set.
        decline: ``polynomial`` (``schedule_power``), ``cosine``, ``step`` (``schedule_share``, ``schedule_factor``),
            or ``plateau`` (``schedule_interval``, ``schedule_factor``, ``schedule_patience``), where rates fall when
            the loss does not. ``polynomial`` by default.
        warm_up: Share of the training in which the rate rises, in [0, 1). 0 by default; not for ``plateau``.
        head_share: Share of the training in which the body rests, see :class:`IterationSchedule`. None by default; not
            for ``plateau``.
        val_interval: Number of epochs between validations, at least 1, for ``plateau``. 1 by default.
        **settings: Settings of the declines; those of others than the chosen one do not count.

    Raises:
        ConfigError: When there is no such decline, or a number is out of range.
    """
    if decline not in (*DECLINES, PLATEAU):
        raise ConfigError(f"decline is {decline!r}; accepted are {', '.join([*DECLINES, PLATEAU])}")
    _check(settings)
    if decline == PLATEAU:
        for name, value, off in (("warm_up", warm_up, 0), ("head_share", head_share, "null")):
            if value:
                raise ConfigError(f"{name} is {value} with decline 'plateau', which has no length; set it to {off}")
        names = ("schedule_interval", "schedule_factor", "schedule_patience")
        own = {name: settings[name] for name in names if name in settings}
        return PlateauSchedule(optimizer, val_interval=val_interval, **own)
    accepted = {"polynomial": ("schedule_power",), "step": ("schedule_share", "schedule_factor")}.get(decline, ())
    own = {name: settings[name] for name in accepted if name in settings}
    return IterationSchedule(optimizer, partial(DECLINES[decline], **own), warm_up=warm_up, head_share=head_share)


def _check(settings: Mapping[str, Any]) -> None:
    """Raises when a setting of a decline is out of range."""
    ranges = {"schedule_power": (0, math.inf), "schedule_share": (0, 1), "schedule_factor": (0, 1)}
    for name, (low, high) in ranges.items():
        if name in settings and not low <= settings[name] <= high:
            raise ConfigError(f"{name} is {settings[name]}; accepted are numbers from {low} to {high}")
