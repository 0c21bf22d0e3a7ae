"""Checks the shape of a U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError


def check_levels(spatial_dims: int, features: Sequence[int]) -> None:
    """Makes sure that a U-Net can be built.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        features: Channels of each level, at least 1, of at least two levels.

    Raises:
        ConfigError: When it cannot.
    """
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims is {spatial_dims!r}; accepted are 2 and 3")
    if len(features) < 2 or min(features) < 1:
        raise ConfigError(f"features is {list(features)!r}; at least two levels of at least one channel are needed")
