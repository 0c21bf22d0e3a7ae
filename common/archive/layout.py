"""Reads zip files whose every byte is accounted for: no reader finds anything else in them than this one.

Readers of zip files differ in what they believe: the directory, the header before each file, or the end record. So only
files are accepted that one of three programs writes. From the names, sizes and checksums in the directory, all headers
are built again; a byte that differs from them is refused. What a file unpacks to must fit the directory as well.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile

from .quotes import quoted

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")

_LOCAL_FIELDS = (
    "signature", "version", "flags (encryption among them)", "compression method", "time", "date", "checksum",
    "packed size", "size", "length of the name", "length of the extra field",
)  # fmt: skip
_CENTRAL_FIELDS = (
    "signature", "system", *_LOCAL_FIELDS[1:], "length of the comment", "number of the disk", "kind of text",
    "attributes (link, folder or device among them)", "place",
)  # fmt: skip

_SYSTEMS = (0, 3)
"""Windows and Unix: where Python wrote the file."""


@dataclass(frozen=True)
class Form:
    """How one program writes zip files.

    Args:
        version: Version of the zip format that headers name, as ten times the number: 20 is 2.0.
        date: Date of every file, as headers encode it: 33 is January 1, 1980. Times are 0.
        method: Method of compression, ``ZIP_STORED`` or ``ZIP_DEFLATED``.
        attributes: External attributes of every file; Unix permissions stand in the upper 16 bits.
        flags: Flags of every file, as headers hold them; 0 by default.
        wide: Whether sizes before a file are in an extra field of 64 bits, as where Python does not know them yet.
            False by default.
        streamed: Whether padding comes before a file, checksum and sizes after it, and end records of 64 bits last.
            False by default.
    """

    version: int
    date: int
    method: int
    attributes: int
    flags: int = 0
    wide: bool = False
    streamed: bool = False


PLAIN = Form(version=20, date=33, method=ZIP_DEFLATED, attributes=0o644 << 16)
"""As :func:`common.archive.build_archive` writes an archive."""

NUMPY = Form(version=45, date=33, method=ZIP_STORED, attributes=0o600 << 16, wide=True)
"""As ``numpy.savez`` writes a file."""

TORCH = Form(version=0, date=0, method=ZIP_STORED, attributes=0, flags=0x808, streamed=True)
"""As ``torch.save`` writes a file."""


@dataclass(frozen=True)
class Entry:
    """One file in a zip file.

    Args:
        name: Name of the file with its folders.
        checksum: CRC-32 of the content.
        packed_size: Number of bytes that the file takes in the zip file.
        size: Number of bytes of the content.
        start: Position in the zip file at which the packed bytes begin, in bytes.
    """

    name: str
    checksum: int
    packed_size: int
    size: int
    start: int


def read_entries(content: bytes, form: Form) -> list[Entry]:
    """Returns the files of a zip file, in their order, after a check of every byte that is not of a file's content.

    Args:
        content: Bytes of the whole zip file.
        form: Form of the program that must have written it.

    Raises:
        BadZipFile: Naming what that program would not have written.
    """
    if len(content) < _END.size or content[-_END.size :][:4] != b"PK\5\6":
        raise BadZipFile("it does not end with the end record of a zip file")
    *_, count, _, place, _ = _END.unpack(content[-_END.size :])
    position, entries = 0, []
    directory = place
    for _ in range(count):
        entry, directory, position = _read_entry(content, directory, position, form)
        entries.append(entry)
    if position != place:
        raise BadZipFile("it holds hidden data before its directory")
    if content[directory:] != _end(form, count, directory - place, place):
        raise BadZipFile("its end records do not fit its directory, or hidden data are between them")
    return entries


def unpack(content: bytes, entry: Entry, form: Form) -> bytes:
    """Returns the content of one file; no more bytes than the directory announces are ever unpacked.

    Args:
        content: Bytes of the whole zip file.
        entry: Entry of the file to unpack.
        form: Form of the program that must have written it.

    Raises:
        BadZipFile: When the content contradicts the directory, or bytes are hidden behind it.
    """
    unpacked = packed = content[entry.start : entry.start + entry.packed_size]
    if form.method == ZIP_DEFLATED:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            unpacked = stream.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise BadZipFile(f"{quoted(entry.name)} cannot be unpacked ({error})") from error
        if not stream.eof or stream.unused_data:
            raise BadZipFile(f"the packed bytes of {quoted(entry.name)} end elsewhere than its directory says")
    if len(unpacked) != entry.size or zlib.crc32(unpacked) != entry.checksum:
        raise BadZipFile(f"{quoted(entry.name)} has another size or checksum than its directory says")
    return unpacked


def _read_entry(content: bytes, directory: int, position: int, form: Form) -> tuple[Entry, int, int]:
    """The file at a place of the directory, which lies at ``position``, and where the next ones are."""
    header = content[directory : directory + _CENTRAL.size]
    if len(header) < _CENTRAL.size:
        raise BadZipFile("its directory is cut off")
    fields = _CENTRAL.unpack(header)
    system, (checksum, packed_size, size, length) = fields[1] >> 8, fields[7:11]
    directory += _CENTRAL.size
    raw = content[directory : directory + length]
    # Letters beyond ASCII can look alike, and are written in more ways than one.
    name = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw)
    # Torch writes nothing after an empty file.
    streamed = form.streamed and size > 0
    shared = (form.version, form.flags if streamed else form.flags & ~8, form.method, 0, form.date)
    made = form.version | (system if system in _SYSTEMS else 0) << 8
    wanted = (b"PK\1\2", made, *shared, checksum, packed_size, size, length, 0, 0, 0, 0, form.attributes, position)
    _compare(fields, wanted, _CENTRAL_FIELDS, name)
    if not raw.isascii():
        raise BadZipFile(f"the name {quoted(name)} is not of ASCII letters")
    start = _check_local(content, position, (shared, raw, (checksum, packed_size, size)), form)
    end = start + packed_size
    after = struct.pack("<4s3L", b"PK\7\10", checksum, packed_size, size) if streamed else b""
    if end > len(content) or content[end : end + len(after)] != after:
        raise BadZipFile(f"{quoted(name)} is cut off, or its sizes differ from those of the directory")
    return Entry(name, checksum, packed_size, size, start), directory + length, end + len(after)


def _check_local(
    content: bytes, position: int, known: tuple[tuple[int, ...], bytes, tuple[int, int, int]], form: Form
) -> int:
    """Where the content of a file begins, whose header must be what its directory implies."""
    shared, raw, (checksum, packed_size, size) = known
    name, header = raw.decode("ascii"), content[position : position + _LOCAL.size]
    if len(header) < _LOCAL.size:
        raise BadZipFile(f"the header of {quoted(name)} is cut off")
    fields = _LOCAL.unpack(header)
    extra_length, sizes = 0, (checksum, packed_size, size)
    if form.wide:
        extra_length, sizes = 20, (checksum, 2**32 - 1, 2**32 - 1)
    if form.streamed:
        extra_length, sizes = fields[-1], (0, 0, 0)
    _compare(fields, (b"PK\3\4", *shared, *sizes, len(raw), extra_length), _LOCAL_FIELDS, name)
    start = position + _LOCAL.size + len(raw) + extra_length
    extra = struct.pack("<2H2Q", 1, 16, size, packed_size) if form.wide else b""
    if form.streamed:
        extra = struct.pack("<2sH", b"FB", max(extra_length - 4, 0)).ljust(extra_length, b"Z")
    if content[position + _LOCAL.size : start] != raw + extra:
        raise BadZipFile(f"the header of {quoted(name)} has another name, or extra data")
    return start


def _compare(found: Sequence[bytes | int], wanted: Sequence[bytes | int], names: Sequence[str], file: str) -> None:
    """Refuses a header of which a field is not as it would have been written."""
    for value, expected, name in zip(found, wanted, names, strict=True):
        if value != expected:
            raise BadZipFile(f"the {name} of {quoted(file)} is {quoted(value)}, expected is {quoted(expected)}")


def _end(form: Form, count: int, length: int, place: int) -> bytes:
    """All that follows the directory."""
    end = _END.pack(b"PK\5\6", 0, 0, count, count, length, place, 0)
    if not form.streamed:
        return end
    wide = _END64.pack(b"PK\6\6", _END64.size - 12, 0x031E, 45, 0, 0, count, count, length, place)
    return wide + _LOCATOR64.pack(b"PK\6\7", 0, place + length, 1) + end
