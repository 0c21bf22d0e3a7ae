"""Computes the digests that bind a signature bank to the weights and the preprocessing it was fitted with."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.digests import settings_digest
from ..runtime.distributed import unwrap
from ..runtime.hashing import tensors_digest


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256, in hexadecimal, over the sorted name, type, shape and bytes of every tensor.

    Args:
        state_dict: State of a network; a leading ``module.`` (distributed training) does not count.
    """
    return tensors_digest(
        (name, str(tensor.dtype), tuple(tensor.shape), partial(_row_major, tensor))
        for name, tensor in state_dict.items()
    )


def _row_major(tensor: Tensor) -> bytes:
    """The tensor's elements in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class WeightsDigest:
    """Computes :func:`weights_digest` of a network, again only when the weights have changed since the last call.

    Changes are seen as torch counts them: by optimizers, by loading, by operations in place. Those through
    ``tensor.data`` escape, as they do torch's own bookkeeping.
    """

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[nn.Module], tuple[tuple[int, int], ...], str] | None = None

    def __call__(self, network: nn.Module) -> str:
        """Returns the digest of ``network``, looking inside a data-parallel wrapper."""
        inner = unwrap(network)
        state = inner.state_dict()
        # The tensor's version counter rises with every change in place, so no byte is read while nothing changed. A
        # network loaded anew may lie where the old one lay, so addresses alone would not tell the two apart.
        key = tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())
        last = self._last
        if last is None or last[0]() is not inner or last[1] != key:
            last = (weakref.ref(inner), key, weights_digest(state))
            self._last = last
        return last[2]


def preprocessing_digest(transforms: Iterable[Any]) -> str:
    """Returns the SHA-256, in hexadecimal, over the kinds and settings of the transforms that prepare an image.

    Args:
        transforms: Transforms of an image. Each contributes its class name and every setting that is a number, a text,
            a flag or a collection of those, also inside nested transforms.
    """
    return settings_digest(list(transforms))


def bank_settings(inferer: Any, image_transforms: Sequence[Any], weights_digest: str) -> dict[str, Any]:
    """Returns the settings in use, by the names of ``BankSettings``, that a bank must have been fitted with.

    Args:
        inferer: Inferer that computes signatures.
        image_transforms: Transforms that prepare an image after loading.
        weights_digest: SHA-256 of the weights of the network in use, in hexadecimal.
    """
    # The first that differs is named: a size tells more than the digest of what follows from it.
    prepared = {"preprocessing_digest": preprocessing_digest(image_transforms)}
    return {"weights_digest": weights_digest} | dict(inferer.settings) | prepared
