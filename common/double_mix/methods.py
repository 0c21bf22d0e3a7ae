"""Makes the iteration of a training: co-training, or the one of another published method."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..networks.averaging import EMANetwork
from .features import FeatureTap
from .rivals import BCPStep, CLDStep, CReSTStep, DePLStep, DSTStep, SSNetStep, UniMatchStep, ViewsStep
from .step import CoTrainingStep
from .students import StudentStep

RIVALS: dict[str, type[StudentStep]] = {
    "bcp": BCPStep,
    "ss_net": SSNetStep,
    "unimatch": UniMatchStep,
    "fixmatch": ViewsStep,
    "dst": DSTStep,
    "depl": DePLStep,
    "crest": CReSTStep,
    "cld": CLDStep,
}
"""What ``name`` of ``rival`` accepts: the name of a method -> its step."""

SHARED = frozenset({"network", "loss", "ema", "generator", "num_classes", "tap", "channels", "settings"})
"""Arguments of a rival that are not its own settings."""


def make_step(
    network: nn.Module,
    loss: Any,
    *,
    num_classes: int,
    feature_layers: Sequence[str],
    in_channels: int,
    roi_size: Sequence[int],
    rival: Mapping[str, Any] | None = None,
    ema: EMANetwork | None = None,
    generator: Any = None,
    **settings: Any,
) -> CoTrainingStep | StudentStep:
    """Returns the iteration of a training.

    Args:
        network: A ``CoTrainedPair`` or ``SingleStudent``, perhaps distributed.
        loss: Loss of labeled images.
        num_classes: Number of classes C, background included.
        feature_layers: Names of feature layers; the first is the map that some rivals look at.
        in_channels: Number of channels of an image.
        roi_size: Size of a patch, in voxels along each axis.
        rival: Method that takes the place of co-training: its ``name``, one of ``RIVALS``, and its own settings. With
            ``None``, the default, it is co-training.
        ema: Average of the networks. ``None`` by default.
        generator: Generator of all draws. With ``None``, the default, torch's own.
        **settings: Further arguments of :class:`CoTrainingStep`, which rivals do not use.

    Raises:
        ConfigError: When there is no such method, or it has no such setting.
    """
    shared: dict[str, Any] = {"ema": ema, "generator": generator}
    if rival is None:
        return CoTrainingStep(network, loss, **shared, **settings)
    own = {key: value for key, value in rival.items() if key != "name"}
    if rival.get("name") not in RIVALS:
        raise ConfigError(f"rival has the name {rival.get('name')!r}; accepted are {', '.join(RIVALS)}")
    kind = RIVALS[rival["name"]]
    arguments = _arguments(kind)
    accepted = [name for name in arguments if name not in SHARED]
    unknown = sorted(own.keys() - set(accepted))
    if unknown:
        raise ConfigError(f"rival has {unknown[0]!r}, which {rival['name']} does not take; it takes {accepted}")
    if "num_classes" in arguments:
        own["num_classes"] = num_classes
    if "tap" in arguments:
        own["tap"] = FeatureTap(network, feature_layers[0])
    if "channels" in arguments:
        own["channels"] = own["tap"].channels(network, (1, in_channels, *roi_size))
    return kind(network, loss, **shared, **own)


def _arguments(kind: type) -> list[str]:
    """Names of the arguments of a step, its own and those that it passes on."""
    parts = [part.__init__ for part in kind.__mro__ if "__init__" in vars(part) and part is not object]  # type: ignore[misc]
    names = [name for part in parts for name in inspect.signature(part).parameters if name != "self"]
    return list(dict.fromkeys(names))
