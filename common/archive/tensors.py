"""Reads weights as bytes: nothing in them is trusted, unpickled as it asks, or run.

``torch.save`` writes a zip file with a pickle of the tensors' names, shapes and places, and their bytes beside it. The
pickle is read by an unpickler that knows three functions, all harmless stand-ins of ours; everything else is refused.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, NoReturn
from zipfile import BadZipFile

from ..errors import ArchiveError
from ..runtime.hashing import tensors_digest
from .layout import TORCH, Form, read_entries, unpack
from .quotes import MAX_REASON, cut, quoted
from .structure import MAX_BYTES

STORAGES = {
    "BFloat16Storage": ("torch.bfloat16", 2),
    "BoolStorage": ("torch.bool", 1),
    "ByteStorage": ("torch.uint8", 1),
    "CharStorage": ("torch.int8", 1),
    "DoubleStorage": ("torch.float64", 8),
    "FloatStorage": ("torch.float32", 4),
    "HalfStorage": ("torch.float16", 2),
    "IntStorage": ("torch.int32", 4),
    "LongStorage": ("torch.int64", 8),
    "ShortStorage": ("torch.int16", 2),
}
"""Kinds of storages: name in a pickle -> name of the tensors' type, bytes of an element."""

MAX_PICKLE = 2**22
"""Most bytes of the pickle itself, which holds names and shapes only."""


MAX_DIMS = 64
"""Most dimensions of a tensor; torch itself allows no more."""

_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")
_STORAGE = re.compile(r"data/\d{1,9}")
_NOTES = {
    ".data/serialization_id": rb"\d{1,64}",
    ".format_version": rb"\d{1,4}",
    ".storage_alignment": rb"\d{1,6}",
    "byteorder": rb"little",
    "version": rb"\d{1,4}\n",
}
"""What torch notes beside the tensors: name of the record -> its content."""

_OPCODES = (
    pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID, pickle.NONE, pickle.NEWTRUE,
    pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINUNICODE, pickle.EMPTY_DICT,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.BINGET, pickle.LONG_BINGET,
)  # fmt: skip
"""What torch writes into the pickle of a dictionary of tensors, beside those that are replaced below."""


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any, hooks: Any) -> _Tensor:
    """Stands in for torch's function of that name; whether there is a gradient does not count."""
    if type(gradient) is not bool or not (hooks is None or (type(hooks) is OrderedDict and not hooks)):
        raise pickle.UnpicklingError("a tensor has hooks")
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or len(shape) > MAX_DIMS:
        raise pickle.UnpicklingError("a tensor has no storage or no shape")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor's shape is not of whole numbers from 0")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _TensorUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the C one lets a pickle exhaust the memory
    """Reads names, shapes and places of tensors; refuses whatever else a pickle may ask for."""

    stack: list[Any]
    read: Callable[[int], bytes]

    def load(self) -> Any:
        """Returns what the pickle holds.

        Raises:
            UnpicklingError: When it holds more than a dictionary of tensors.
        """
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError("it holds more than names and tensors") from error

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a function or class that a pickle names.

        Raises:
            UnpicklingError: When no dictionary of tensors needs it.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the place of a tensor's bytes.

        Raises:
            UnpicklingError: When it is no storage that torch writes.
        """
        # Nothing is hashed or printed before its type is known: a deeply nested key would crash the interpreter.
        if not all(isinstance(part, str) for part in pid[:4]):
            raise pickle.UnpicklingError("it names an unknown storage")
        kind, storage, key, device, count = pid
        if kind != "storage" or storage not in STORAGES or type(count) is not int or not _DEVICE.fullmatch(device):
            raise pickle.UnpicklingError("it names an unknown storage")
        return _Storage(storage, key, count)

    def _check_protocol(self) -> None:
        """Refuses protocols that torch does not write: it would read them otherwise, or not at all."""
        if self.read(1) != b"\2":
            raise pickle.UnpicklingError("it is not of protocol 2")

    def _call(self) -> None:
        """Calls one of the two functions there are."""
        arguments = self.stack.pop()
        function = self.stack.pop()
        if function is OrderedDict and arguments == ():
            self.stack.append(OrderedDict())
        elif function is _rebuild_tensor:
            self.stack.append(_rebuild_tensor(*arguments))
        else:
            raise pickle.UnpicklingError("it calls what it may not")

    def _set_items(self) -> None:
        """Adds items to a dictionary; their keys are names."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._add_items(items[::2], items[1::2])

    def _set_item(self) -> None:
        """Adds one item to a dictionary."""
        value = self.stack.pop()
        self._add_items([self.stack.pop()], [value])

    def _add_items(self, keys: list[Any], values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or not all(type(key) is str for key in keys):
            raise pickle.UnpicklingError("it holds more than names and tensors")
        target.update(zip(keys, values, strict=True))

    def _drop_state(self) -> None:
        """Ignores the state of an object, in which torch keeps versions of modules."""
        self.stack.pop()

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: pickle._Unpickler.dispatch[code] for code in b"".join(_OPCODES)},  # type: ignore[attr-defined]
        pickle.PROTO[0]: _check_protocol,
        pickle.REDUCE[0]: _call,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _drop_state,
    }


def state_digest(content: bytes, where: str) -> str:
    """Returns the SHA-256 of a file of weights as :func:`common.spectral.digest.weights_digest` computes it.

    Args:
        content: Bytes of a file that ``torch.save`` wrote: a dictionary of names and tensors, nothing else.
        where: Name of the file in messages.

    Raises:
        ArchiveError: When it holds anything but tensors, or is damaged.
    """
    try:
        pickled, storages = _read_records(content)
        state = _unpickle(pickled)
        # Tensors may share their bytes; a file in which many do would be hashed for hours.
        if sum(prod(kept.shape) * STORAGES[kept.storage.kind][1] for kept in state.values()) > MAX_BYTES:
            raise ValueError(f"its tensors are of more than {MAX_BYTES} bytes")
        if storages.keys() != {kept.storage.key for kept in state.values()}:
            raise ValueError("it holds bytes that belong to no tensor")
        return tensors_digest(
            (name, STORAGES[kept.storage.kind][0], kept.shape, partial(_row_major, kept, storages[kept.storage.key]))
            for name, kept in state.items()
        )
    except DAMAGED as error:
        refuse(where, str(error) or type(error).__name__, error)


DAMAGED = (
    pickle.UnpicklingError,
    BadZipFile,
    struct.error,
    OverflowError,
    EOFError,
    LookupError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
)
"""What reading damaged or hostile bytes may raise."""


def refuse(where: str, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Refuses a file of weights or a bank.

    Args:
        where: Name of the file in the message.
        reason: Text that says what is wrong with the file.
        cause: Error that showed what is wrong; ``None`` by default, where no error did.

    Raises:
        ArchiveError: Always.
    """
    raise ArchiveError(
        f"{where} holds more than tensors or is damaged ({cut(reason, MAX_REASON)}); do not load it"
    ) from cause


def read_stored(content: bytes, form: Form) -> dict[str, bytes]:
    """Returns all files of a zip file as torch or numpy write it: name -> content.

    Args:
        content: Bytes of the zip file, whose files have at most 1 GiB together.
        form: Form of the program that must have written it.

    Raises:
        BadZipFile: When that program would not have written it.
        ValueError: When a name is there twice, or the files are too large.
    """
    entries = read_entries(content, form)
    if len({entry.name for entry in entries}) != len(entries) or sum(entry.size for entry in entries) > MAX_BYTES:
        raise ValueError("a name is there twice, or it is too large")
    return {entry.name: unpack(content, entry, form) for entry in entries}


def _read_records(content: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The pickle in a file that torch wrote, and the bytes of its storages; it holds nothing else."""
    files = read_stored(content, TORCH)
    prefix = next(iter(files), "").partition("/")[0]
    records = {name.removeprefix(f"{prefix}/"): data for name, data in files.items()}
    pickled = records.pop("data.pkl")
    storages = {name.removeprefix("data/"): data for name, data in records.items() if _STORAGE.fullmatch(name)}
    for name in records.keys() - {f"data/{key}" for key in storages}:
        if name not in _NOTES or not re.fullmatch(_NOTES[name], records[name]):
            raise ValueError(f"it holds {quoted(name)}, which weights have no use for")
    if len(pickled) > MAX_PICKLE:
        raise ValueError("its pickle is too large")
    return pickled, storages


def _unpickle(pickled: bytes) -> dict[str, _Tensor]:
    """Names and places of tensors, when a pickle holds nothing else, not even behind its end."""
    stream = io.BytesIO(pickled)
    state = _TensorUnpickler(stream).load()
    if type(state) not in (dict, OrderedDict) or not all(type(kept) is _Tensor for kept in state.values()):
        raise pickle.UnpicklingError("it holds more than names and tensors")
    if stream.read(1):
        raise pickle.UnpicklingError("bytes follow its pickle")
    return state


def _row_major(tensor: _Tensor, storage: bytes) -> bytes:
    """The tensor's elements, which must lie in row-major order."""
    size, count = STORAGES[tensor.storage.kind][1], prod(tensor.shape)
    if tensor.storage.count * size != len(storage):
        raise ValueError("a tensor's bytes are more or fewer than it says")
    if (tensor.offset + count) * size > len(storage):
        raise ValueError("a tensor reaches beyond its bytes")
    row_major = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    if count and any(n > 1 and s != r for n, s, r in zip(tensor.shape, tensor.stride, row_major, strict=True)):
        raise ValueError("a tensor is not in row-major order: save what contiguous() returns")
    return storage[tensor.offset * size : (tensor.offset + count) * size]
