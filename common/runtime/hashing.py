"""Computes the digest of a network's weights, from tensors as torch or as the standard library sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

TensorBytes = tuple[str, str, Sequence[int], Callable[[], bytes]]
"""Name of a tensor, its type as torch writes it, its shape, and what returns its elements: row-major, little endian."""


def tensors_digest(tensors: Iterable[TensorBytes]) -> str:
    """Returns the SHA-256, in hexadecimal, over the name, type, shape and bytes of every tensor, sorted by name.

    Args:
        tensors: Tensors, see :data:`TensorBytes`; a leading ``module.`` of the name (distributed training) does not
            count. Only one tensor's elements are held at a time.
    """
    digest = hashlib.sha256()
    bare = ((name.removeprefix("module."), kind, tuple(shape), read) for name, kind, shape, read in tensors)
    for name, kind, shape, read in sorted(bare, key=lambda tensor: tensor[0]):
        digest.update(f"{name}|{kind}|{shape}|".encode())
        digest.update(read())
    return digest.hexdigest()
