"""Settings of objects in plain words, and their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn


def settings_digest(value: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of what :func:`describe` says of a value."""
    return hashlib.sha256(json.dumps(describe(value), sort_keys=True).encode()).hexdigest()


def describe(value: Any) -> Any:
    """Returns a setting or an object in JSON: public attributes of objects, names of classes and functions.

    Of a torch module, such as a loss, its parts and buffers are described as well; torch keeps them out of sight.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return describe(value.tolist())
    if isinstance(value, list | tuple | range):
        return [describe(item) for item in value]
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        return value.__name__
    # Private attributes hold what follows from the public ones, or a state that use may change.
    public = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    if isinstance(value, nn.Module):
        public |= dict(value.named_children()) | dict(value.named_buffers(recurse=False))
    return {"kind": type(value).__name__, "settings": {name: describe(item) for name, item in public.items()}}
