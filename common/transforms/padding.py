"""Pads images and labels to sizes that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import DivisiblePadd

from ..errors import ConfigError


def divisor_per_axis(divisor: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """Returns what window sizes must be multiples of along each axis.

    Args:
        divisor: One number for all axes, or one for each, such as 16, 16, 1 for a network that pools in the plane; at
            least 1.
        spatial_dims: Number of spatial axes, 2 or 3.

    Raises:
        ConfigError: When it is neither.

    Example:
        >>> divisor_per_axis(8, 2), divisor_per_axis([16, 16, 1], 3)
        ((8, 8), (16, 16, 1))
    """
    numbers = tuple(divisor) if isinstance(divisor, Sequence) else (divisor,) * spatial_dims
    if len(numbers) != spatial_dims or not all(type(number) is int and number >= 1 for number in numbers):
        raise ConfigError(
            f"divisor is {divisor!r}; accepted are a whole number from 1, or {spatial_dims} of them, one for each axis"
        )
    return numbers


def pad_to_divisor(
    keys: KeysCollection, divisor: int | Sequence[int], spatial_dims: int, *, allow_missing_keys: bool = False
) -> DivisiblePadd:
    """Returns the transform that pads images with zeros, on both sides, to multiples of a divisor.

    Args:
        keys: Keys of images and labels.
        divisor: Number of voxels of which sizes become multiples, see :func:`divisor_per_axis`; an axis of 1 is never
            padded.
        spatial_dims: Number of spatial axes, 2 or 3.
        allow_missing_keys: Whether a case may lack a key, as unlabeled cases do. Default false.

    Raises:
        ConfigError: When ``divisor`` is not accepted.
    """
    return DivisiblePadd(keys, divisor_per_axis(divisor, spatial_dims), allow_missing_keys=allow_missing_keys)
