"""Describes settings of objects in plain words, and computes their digests.

Two settings that differ have different descriptions, in every process. What cannot be told apart is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
import random
import re
import sys
from collections.abc import Callable, Mapping, Set
from enum import Enum
from pathlib import PurePath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor, nn

from ..errors import ConfigError

STATES = (np.random.RandomState, np.random.Generator, torch.Generator, random.Random, logging.Logger)
"""What an object may hold that is none of its settings."""

SHORT_NAMES = ("common.", "monai.")
"""Packages whose transforms go by their bare name, so that a signature bank outlives the move of one to another file.

Within them, a bare name means one transform."""


def settings_digest(value: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of what :func:`describe` says of a value.

    Raises:
        ConfigError: When it cannot be described.
    """
    return hashlib.sha256(_text(describe(value)).encode()).hexdigest()


def describe(value: Any, *, where: str = "settings") -> Any:
    """Returns a setting or an object in JSON, by value: the same for equal settings, and different for others.

    Objects are described by their class and public attributes: private ones hold what follows from these, or a state
    that use may change. Of a torch module, such as a loss, its parts, parameters and buffers are described as well.
    Lists and tuples are the same, since configs know only lists; so are an enum of texts and its text.

    Args:
        value: Number, text, collection, array, class, function of a module, or object made of these.
        where: Name of the value in the error; ``settings`` by default.

    Raises:
        ConfigError: Naming the part without a value to describe: a lambda, a function inside another one, or an object
            of compiled code or that holds itself.

    Example:
        >>> describe({"size": (8, 8), "kind_of": PurePath("a")})
        {'size': [8, 8], 'kind_of': {'kind': 'path', 'settings': 'a'}}
    """
    return _describe(value, where, ())


def _describe(value: Any, where: str, holders: tuple[int, ...]) -> Any:
    """Describes a part that lies at a place within objects, given by their identity."""
    if id(value) in holders:
        raise _refusal(where, value, "holds itself")
    inside = functools.partial(_describe, holders=(*holders, id(value)))
    if value is None or isinstance(value, bool | int | float | str):
        return _plain(value)
    if isinstance(value, Mapping):
        return _mapping(value, where, inside)
    if isinstance(value, list | tuple | range):
        return [inside(item, f"{where}[{number}]") for number, item in enumerate(value)]
    for kinds, tell in _LEAVES:
        if isinstance(value, kinds):
            return tell(value, where, inside)
    if callable(value) and hasattr(value, "__name__"):
        return _function(value, where, inside)
    return _tagged(_class_name(value, where), _attributes(value, where, inside))


Inside = Callable[[Any, str], Any]
"""Describes a part of a value, given with its place."""


def _text(described: Any) -> str:
    """The one text of a description."""
    return json.dumps(described, sort_keys=True)


def _tagged(kind: str, settings: Any) -> dict[str, Any]:
    return {"kind": kind, "settings": settings}


def _plain(value: Any) -> Any:
    """A value that JSON knows, without a class that was derived from its kind."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _tagged("float", repr(float(value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return str.__str__(value) if isinstance(value, str) else value


def _mapping(value: Mapping[Any, Any], where: str, inside: Inside) -> Any:
    """A mapping; as sorted pairs where its keys are no texts or it might be taken for an object."""
    items = {key: inside(item, f"{where}[{key!r}]") for key, item in value.items()}
    if "kind" not in items and all(type(key) is str for key in items):
        return items
    pairs = [[inside(key, f"a key of {where}"), item] for key, item in items.items()]
    return _tagged("mapping", sorted(pairs, key=_text))


def _array(value: Any, where: str, inside: Inside) -> Any:
    """An array or tensor by type, shape and elements; a scalar of numpy as a number."""
    if isinstance(value, np.generic) and isinstance(value.item(), bool | int | float | complex | str | bytes):
        return inside(value.item(), where)
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise _refusal(where, value, "is no dense tensor")
        kind = str(value.dtype)
        content = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        content = np.ascontiguousarray(value)
        kind = str(content.dtype.descr if content.dtype.names else content.dtype.str)
        if content.dtype.hasobject:
            return _tagged("array", [kind, list(value.shape), inside(content.tolist(), where)])
    return _tagged("array", [kind, list(value.shape), hashlib.sha256(content.tobytes()).hexdigest()])


def _function(value: Any, where: str, inside: Inside) -> Any:
    """A function by the name under which its module has it, or as a method of what it belongs to."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        return _tagged("method", [inside(owner, f"{where}.__self__"), value.__name__])
    return _tagged("function", _name(value, where))


def _name(value: Any, where: str) -> str:
    """Module and name of a class or function, the same in a checkout and in an archive."""
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__self__", None), "__name__", None)
    # numpy's ufuncs tell no module in its older versions.
    module = module or ("numpy" if isinstance(value, np.ufunc) else "")
    # Compiled functions of torch name a class that cannot be reached.
    for name in (getattr(value, "__qualname__", value.__name__), value.__name__):
        found = functools.reduce(lambda held, part: getattr(held, part, None), name.split("."), sys.modules.get(module))
        if found is value or (module not in sys.modules and "<" not in name) or _imported_anew(value, found):
            return f"{module.removeprefix('scripts.')}.{name}"
    # A lambda, a local function or a decorated one may be any of many with this name.
    raise _refusal(where, value, "cannot be found by its name in its module")


def _imported_anew(value: Any, found: Any) -> bool:
    """Whether a module has another import of the same class or function; MONAI Label imports ``scripts`` repeatedly."""
    if isinstance(value, type):
        return isinstance(found, type) and found.__qualname__ == value.__qualname__
    return hasattr(value, "__code__") and getattr(found, "__code__", None) == value.__code__


def _class_name(value: Any, where: str) -> str:
    """What the class of an object is called: a transform of ours or MONAI's by its bare name, others with module."""
    kind = type(value)
    if kind.__module__ == "builtins" or not _has_settings(value):
        raise _refusal(where, value, "has no settings that can be read")
    name = _name(kind, where)
    return kind.__qualname__ if issubclass(kind, Transform) and name.startswith(SHORT_NAMES) else name


def _has_settings(value: Any) -> bool:
    """Whether an object keeps what it was made of where Python can see it."""
    return hasattr(value, "__dict__") or any("__slots__" in vars(kind) for kind in type(value).__mro__)


def _attributes(value: Any, where: str, inside: Inside) -> dict[str, Any]:
    """The settings of an object."""
    slots = {name for kind in type(value).__mro__ for name in _as_names(kind.__dict__.get("__slots__", ()))}
    held = {name: getattr(value, name) for name in slots - {"__dict__", "__weakref__"} if hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    public = {name: item for name, item in held.items() if name in fields or not name.startswith("_")}
    if isinstance(value, nn.Module):
        own = [value.named_children(), value.named_parameters(recurse=False), value.named_buffers(recurse=False)]
        public |= {name: part for parts in own for name, part in parts}
    # A transform that waits for others gives other images, but MONAI keeps that out of sight.
    public |= {"lazy": True} if held.get("_lazy") is True else {}
    return {name: inside(item, f"{where}.{name}") for name, item in public.items() if not isinstance(item, STATES)}


def _as_names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _refusal(where: str, value: Any, reason: str) -> ConfigError:
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))[:80]
    return ConfigError(
        f"{where} is {text}, which {reason}: no digest tells it from another; use a function or class at the top of a "
        "module, numbers, texts or collections of these"
    )


_Tell = Callable[[Any, str, Inside], Any]


def _leaf(kind: str, content: Callable[[Any], Any]) -> _Tell:
    """Tells a value by a tag and its parts, which are described in turn."""
    return lambda value, where, inside: _tagged(kind, inside(content(value), where))


_LEAVES: tuple[tuple[Any, _Tell], ...] = (
    (complex, _leaf("complex", lambda value: [value.real, value.imag])),
    (bytes | bytearray, _leaf("bytes", lambda value: bytes(value).hex())),
    (Enum, lambda value, where, inside: _tagged("enum", [_name(type(value), where), inside(value.value, where)])),
    (PurePath, _leaf("path", str)),
    (Set, lambda value, where, inside: _tagged("set", sorted((inside(item, where) for item in value), key=_text))),
    (slice, _leaf("slice", lambda value: [value.start, value.stop, value.step])),
    (re.Pattern, _leaf("regex", lambda value: [value.pattern, value.flags])),
    (torch.dtype | torch.device | torch.Size | torch.layout | torch.memory_format, _leaf("torch", str)),
    (np.dtype, _leaf("dtype", lambda value: str(value.descr if value.names else value.str))),
    (np.ndarray | np.generic | Tensor, _array),
    (functools.partial, _leaf("partial", lambda value: [value.func, value.args, value.keywords])),
    (type, lambda value, where, _inside: _tagged("class", _name(value, where))),
)
"""Kinds of values, and how each is told."""
