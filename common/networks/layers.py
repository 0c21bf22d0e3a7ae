"""Finds layers of any network by their names."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError


def find_layer(network: nn.Module, name: str, *, setting: str) -> nn.Module:
    """Returns the submodule of that name.

    Args:
        network: Network with any layers.
        name: Name of the layer, as ``named_modules`` gives it.
        setting: Name of the list of names in messages.

    Raises:
        ConfigError: When there is none, with the names that there are.
    """
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        names = ", ".join(child for child, _ in network.named_modules() if child and child.count(".") <= 1)
        raise ConfigError(f"{setting} names {name!r}, which the network does not have; it has: {names}") from error
