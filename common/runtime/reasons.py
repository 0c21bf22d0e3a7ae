"""Tells what went wrong, as one line for whoever has to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BundleError, ConfigError, one_line
from .interrupts import Interrupted

GEOMETRY = (
    "its geometry cannot be used: the axes of its affine are not three independent directions in finite numbers; "
    "repair its header or export it again"
)
SMALL = "it is too small for this network, as it is or after resampling; check its spacing, or exclude it"
PATCHES = (
    "training: the patches are too small for this network, whose deepest layers shrink them to a single value; "
    "raise roi_size, and where the config has a spacing and scans are smaller than roi_size, lower that as well"
)
MEMORY = "there is not enough memory for it; lower roi_size or sw_batch_size, or use a machine with more memory"

SHRUNK = r"more than 1 (spatial element|value per channel)|[Oo]utput size is too small|Kernel size can't be greater"
"""How errors of layers read that are left with too few values to compute with."""

PLAIN = {
    GEOMETRY: r"LinAlgError|OrientationError|start_ornt|SVD did not converge|[Ss]ingular matrix|not invertible",
    SMALL: SHRUNK
    + r"|Sizes of tensors must match|non-zero size|zero-size array|must be greater than 0|should be greater than zero",
    MEMORY: r"MemoryError|[Oo]ut of memory|OutOfMemoryError|can't allocate memory|not enough memory",
}
"""What to say of an error of a library -> how its kind and text read."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Returns an error and those that led to it, the last one first; MONAI wraps errors in its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_bundle_error(error: BaseException | None) -> BundleError | None:
    """Returns the first error of ours in a chain of exceptions."""
    return next((item for item in chain(error) if isinstance(item, BundleError)), None)


def find_interruption(error: BaseException | None) -> Interrupted | None:
    """Returns the signal that led to an error: what imports code by name may wrap it, as ``pydoc.safeimport`` does."""
    met = (found for item in chain(error) for found in (item, getattr(item, "value", None)))
    return next((item for item in met if isinstance(item, Interrupted)), None)


@contextmanager
def plain_training_errors() -> Iterator[None]:
    """Puts the error of a layer that is left with too few values into plain words.

    Raises:
        ConfigError: When the block, a training, fails since its patches shrink to less than the network needs.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        said = _describe([*chain(error)][-1])
        if find_bundle_error(error) is None and re.search(SHRUNK, said):
            raise ConfigError(f"{PATCHES} ({said})") from error
        raise


def error_line(error: BaseException) -> str:
    """Returns one line that tells what went wrong: our own message, or else the innermost error's."""
    own = find_bundle_error(error)
    return one_line(str(own)) if own is not None else _describe([*chain(error)][-1])


def plain_reason(error: BaseException) -> str:
    """Returns one line that tells why a case has failed and what to do: what libraries say is put in plain words.

    Args:
        error: Error that was raised while the case was computed.

    Example:
        >>> plain_reason(MemoryError())
        'there is not enough memory for it; lower roi_size or sw_batch_size, or use a machine with more memory'
    """
    own = find_bundle_error(error)
    if own is not None:
        return one_line(str(own))
    said = [_describe(item) for item in chain(error)]
    known = (text for text, pattern in PLAIN.items() if any(re.search(pattern, line) for line in said))
    return next(
        known,
        f"it cannot be segmented for a reason that is not foreseen ({said[-1]}); exclude it, and report this line",
    )


def _describe(error: BaseException) -> str:
    """Kind and text of one error, in one line."""
    return one_line(": ".join(filter(None, (type(error).__name__, str(error)))))
