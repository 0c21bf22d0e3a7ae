"""Weights and signature banks read as bytes: nothing in them is trusted, unpickled as it asks, or run.

``torch.save`` writes a zip file with a pickle of the tensors' names, shapes and places, and their bytes beside it. The
pickle is read by an unpickler that knows three functions, all harmless stand-ins of ours; everything else is refused.
"""

from __future__ import annotations

import ast
import io
import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, NoReturn

from ..errors import ArchiveError
from ..runtime.hashing import tensors_digest
from .structure import MAX_BYTES, ends_with_record

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

MAX_HEADER = 10_000
"""Most bytes of the header of an array, as for numpy itself."""

_PLAIN_TYPE = re.compile(r"[<|=][biufU]\d{1,4}")

_OPCODES = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID, pickle.NONE, pickle.NEWTRUE,
    pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINUNICODE, pickle.EMPTY_DICT,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.BINGET, pickle.LONG_BINGET,
)  # fmt: skip
"""What torch writes into the pickle of a dictionary of tensors, beside the four that are replaced below."""


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """Stands in for torch's function of that name; hooks and gradients do not count."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or len(shape) > MAX_DIMS:
        raise pickle.UnpicklingError("a tensor has no storage or no shape")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor's shape is not of whole numbers from 0")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _TensorUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the C one lets a pickle exhaust the memory
    """Reads names, shapes and places of tensors; refuses whatever else a pickle may ask for."""

    stack: list[Any]

    def load(self) -> Any:
        """Returns what the pickle holds.

        Raises:
            UnpicklingError: when it holds more than a dictionary of tensors.
        """
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError("it holds more than names and tensors") from error

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a function or class that a pickle names.

        Raises:
            UnpicklingError: when no dictionary of tensors needs it.
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
            UnpicklingError: when it is no storage that torch writes.
        """
        # Nothing is hashed or printed before its type is known: a deeply nested key would crash the interpreter.
        if not all(isinstance(part, str) for part in pid[:3]):
            raise pickle.UnpicklingError("it names an unknown storage")
        kind, storage, key = pid[:3]
        if kind != "storage" or storage not in STORAGES or not key.isalnum():
            raise pickle.UnpicklingError("it names an unknown storage")
        return _Storage(storage, key)

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
        pickle.REDUCE[0]: _call,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _drop_state,
    }


def state_digest(content: bytes, where: str) -> str:
    """Returns the SHA-256 of a file of weights as :func:`common.spectral.digest.weights_digest` computes it.

    Args:
        content: of a file that ``torch.save`` wrote: a dictionary of names and tensors, nothing else.
        where: what a message calls the file.

    Raises:
        ArchiveError: when it holds anything but tensors, or is damaged.
    """
    try:
        files = _read_stored(content)
        prefix = next(name for name in files if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if files.get(f"{prefix}byteorder", b"little") != b"little" or len(files[f"{prefix}data.pkl"]) > MAX_PICKLE:
            _refuse(where, "its byte order or size is not accepted")
        state = _TensorUnpickler(io.BytesIO(files[f"{prefix}data.pkl"])).load()
        if type(state) not in (dict, OrderedDict) or not all(type(kept) is _Tensor for kept in state.values()):
            _refuse(where, "it holds more than names and tensors")
        # Tensors may share their bytes; a file in which many do would be hashed for hours.
        if sum(prod(kept.shape) * STORAGES[kept.storage.kind][1] for kept in state.values()) > MAX_BYTES:
            _refuse(where, f"its tensors are of more than {MAX_BYTES} bytes")
        storages = {name.removeprefix(f"{prefix}data/"): data for name, data in files.items()}
        return tensors_digest(
            (name, STORAGES[kept.storage.kind][0], kept.shape, partial(_row_major, kept, storages[kept.storage.key]))
            for name, kept in state.items()
        )
    except ArchiveError:
        raise
    except _DAMAGED as error:
        _refuse(where, str(error) or type(error).__name__, error)


def bank_weights_digest(content: bytes, where: str) -> str:
    """Returns the digest of the weights that a signature bank was fitted to.

    Args:
        content: of the bank's ``.npz`` file.
        where: what a message calls the file.

    Raises:
        ArchiveError: when it holds pickled objects, has no such digest, or is damaged.
    """
    try:
        arrays = {name: _array(data) for name, data in _read_stored(content).items()}
        kind, data = arrays["weights_digest.npy"]
        if kind != "<U64":
            _refuse(where, "its digest of the weights is no text of 64 characters")
        return data.decode("utf-32-le")
    except ArchiveError:
        raise
    except _DAMAGED as error:
        _refuse(where, str(error) or type(error).__name__, error)


_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
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


def _refuse(where: str, reason: str, cause: BaseException | None = None) -> NoReturn:
    text = " ".join(reason.split())
    raise ArchiveError(f"{where} holds more than tensors or is damaged ({text}); do not load it") from cause


def _read_stored(content: bytes) -> dict[str, bytes]:
    """All files of a zip file that compresses nothing and repeats no name, as torch and numpy write them."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = file.infolist()
        if not ends_with_record(file, content) or min((entry.header_offset for entry in entries), default=0):
            # Python's zip reader forgives what others do not: torch would read other bytes than these.
            raise ValueError("it holds data before or after the zip file")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if len({entry.filename for entry in entries}) != len(entries) or sum(e.file_size for e in entries) > MAX_BYTES:
            raise ValueError("a name is there twice, or it is too large")
        return {entry.filename: file.read(entry) for entry in entries}


def _array(content: bytes) -> tuple[str, bytes]:
    """Type and bytes of an array in numpy's format; one of objects, which would be a pickle, is refused."""
    if content[:6] != b"\x93NUMPY" or content[6] not in (1, 2):
        raise ValueError("a file in it is no array")
    width = 2 if content[6] == 1 else 4
    length = int.from_bytes(content[8 : 8 + width], "little")
    if length > MAX_HEADER:
        raise ValueError(f"an array in it has a header of {length} bytes")
    start = 8 + width + length
    kind = ast.literal_eval(content[8 + width : start].decode("latin-1"))["descr"]
    if not isinstance(kind, str) or not _PLAIN_TYPE.fullmatch(kind):
        raise ValueError(f"an array in it is of type {kind!r}")
    return kind, content[start:]


def _row_major(tensor: _Tensor, storage: bytes) -> bytes:
    """The tensor's elements, which must lie in row-major order."""
    size, count = STORAGES[tensor.storage.kind][1], prod(tensor.shape)
    if (tensor.offset + count) * size > len(storage):
        raise ValueError("a tensor reaches beyond its bytes")
    row_major = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    if count and any(n > 1 and s != r for n, s, r in zip(tensor.shape, tensor.stride, row_major, strict=True)):
        raise ValueError("a tensor is not in row-major order: save what contiguous() returns")
    return storage[tensor.offset * size : (tensor.offset + count) * size]
