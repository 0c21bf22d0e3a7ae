"""Weights and signature banks read as bytes: nothing in them is trusted, unpickled as it asks, or run.

``torch.save`` writes a zip file with a pickle of the tensors' names, shapes and places, and their bytes beside it. The
pickle is read by an unpickler that knows three functions, all harmless stand-ins of ours; everything else is refused.
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NoReturn

from ..errors import ArchiveError
from ..hashing import tensors_digest
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

MAX_PICKLE = 2**24
"""Most bytes of the pickle itself, which holds names and shapes only."""


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


class _TensorUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the C one lets a pickle exhaust the memory
    """Reads names, shapes and places of tensors; refuses whatever else a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a function or class that a pickle names."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the place of a tensor's bytes."""
        kind, storage, key = pid[:3]
        if kind != "storage" or storage not in STORAGES or not str(key).isalnum():
            raise pickle.UnpicklingError("it names an unknown storage")
        return _Storage(storage, str(key))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _Tensor:
    """Stands in for torch's function of that name; hooks and gradients do not count."""
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def state_digest(content: bytes, where: str) -> str:
    """Returns the SHA-256 of a file of weights as :func:`common.spectral.digest.weights_digest` computes it.

    Args:
        content: of a file that ``torch.save`` wrote: a dictionary of names and tensors, nothing else.
        where: what a message calls the file.

    Raises:
        ArchiveError: when it holds anything but tensors, or is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            files = _read_stored(file)
        prefix = next(name for name in files if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if files.get(f"{prefix}byteorder", b"little") != b"little" or len(files[f"{prefix}data.pkl"]) > MAX_PICKLE:
            _refuse(where, "its byte order or size is not accepted")
        state = _TensorUnpickler(io.BytesIO(files[f"{prefix}data.pkl"])).load()
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in state.items()
        ):
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
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            arrays = {name: _array(data) for name, data in _read_stored(file).items()}
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
    NotImplementedError,
    RecursionError,
    RuntimeError,
)
"""What reading damaged or hostile bytes may raise."""


def _refuse(where: str, reason: str, cause: BaseException | None = None) -> NoReturn:
    text = " ".join(reason.split())
    raise ArchiveError(f"{where} holds more than tensors or is damaged ({text}); do not load it") from cause


def _read_stored(file: zipfile.ZipFile) -> dict[str, bytes]:
    """All files of a zip file that compresses nothing and repeats no name, as torch and numpy write them."""
    entries = file.infolist()
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
    start = 8 + width + length
    kind = ast.literal_eval(content[8 + width : start].decode("latin-1"))["descr"]
    if not isinstance(kind, str) or kind[1:2] not in ("b", "i", "u", "f", "U"):
        raise ValueError(f"an array in it is of type {kind!r}")
    return kind, content[start:]


def _row_major(tensor: _Tensor, storage: bytes) -> bytes:
    """The tensor's elements, which must lie in row-major order."""
    size, count = STORAGES[tensor.storage.kind][1], prod(tensor.shape)
    if min((tensor.offset, *tensor.shape)) < 0 or (tensor.offset + count) * size > len(storage):
        raise ValueError("a tensor reaches beyond its bytes")
    row_major = [prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    if count and any(n > 1 and s != r for n, s, r in zip(tensor.shape, tensor.stride, row_major, strict=True)):
        raise ValueError("a tensor is not in row-major order: save what contiguous() returns")
    return storage[tensor.offset * size : (tensor.offset + count) * size]
