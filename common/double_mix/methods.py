"""Makes the iteration of a training: co-training, or the one of another published method."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..networks.averaging import EMANetwork
from .rivals import BCPStep
from .step import CoTrainingStep
from .students import StudentStep

RIVALS: dict[str, type[StudentStep]] = {"bcp": BCPStep}
"""What ``name`` of ``rival`` accepts: the name of a method -> its step."""

SHARED = frozenset({"self", "network", "loss", "ema", "generator", "amp", "settings"})
"""Arguments of a rival that are not its own settings."""


def make_step(
    network: nn.Module,
    loss: Any,
    *,
    rival: Mapping[str, Any] | None = None,
    ema: EMANetwork | None = None,
    generator: Any = None,
    amp: bool = False,
    **settings: Any,
) -> CoTrainingStep | StudentStep:
    """Returns the iteration of a training.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        rival: Method that takes the place of co-training: its ``name``, one of ``RIVALS``, and its own settings. With
            ``None``, the default, it is co-training.
        ema: Average of the networks. ``None`` by default.
        generator: Generator of all draws. With ``None``, the default, torch's own.
        amp: Whether to compute in bfloat16 where that is safe. False by default.
        **settings: Further arguments of :class:`CoTrainingStep`, which rivals do not use.

    Raises:
        ConfigError: When there is no such method, or it has no such setting.
    """
    shared: dict[str, Any] = {"ema": ema, "generator": generator, "amp": amp}
    if rival is None:
        return CoTrainingStep(network, loss, **shared, **settings)
    own = {key: value for key, value in rival.items() if key != "name"}
    if rival.get("name") not in RIVALS:
        raise ConfigError(f"rival has the name {rival.get('name')!r}; accepted are {', '.join(RIVALS)}")
    kind = RIVALS[rival["name"]]
    accepted = [name for name in inspect.signature(kind).parameters if name not in SHARED]
    unknown = sorted(own.keys() - set(accepted))
    if unknown:
        raise ConfigError(f"rival has {unknown[0]!r}, which {rival['name']} does not take; it takes {accepted}")
    return kind(network, loss, **shared, **own)
