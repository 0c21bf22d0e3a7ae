"""Zip files in which something is not where, or not what, their directory says: every byte counts."""

import io
import struct
import zipfile
import zlib
from itertools import permutations

import numpy as np
import pytest
import torch

from common.archive.build import _zip
from common.archive.layout import NUMPY, PLAIN, TORCH, Form, read_entries, unpack

TEXT = b"signature " * 20


def by_torch():
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3.0), "empty": torch.zeros(0)}, buffer)
    return buffer.getvalue()


def by_numpy():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3.0), b=np.asarray("text"))
    return buffer.getvalue()


SOUND = {
    "plain": (PLAIN, _zip({"organ/a.txt": TEXT, "organ/b.txt": b"", "organ/c.txt": b"c"})),
    "numpy": (NUMPY, by_numpy()),
    "torch": (TORCH, by_torch()),
}


def read(content: bytes, form: Form) -> dict[str, bytes]:
    return {entry.name: unpack(content, entry, form) for entry in read_entries(content, form)}


def check_refused(content, form=PLAIN):
    """Reads what must be refused; returns the reason."""
    with pytest.raises(zipfile.BadZipFile) as caught:
        read(bytes(content), form)
    reason = str(caught.value)
    assert len(reason) < 250, "what a file holds is cut"
    return reason


@pytest.mark.parametrize("kind", SOUND)
def test_sound_file_is_read_as_python_reads_it(kind):
    form, content = SOUND[kind]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert read(content, form) == {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(("other", "kind"), [*permutations(SOUND, 2)])
def test_file_of_another_program_is_refused(kind, other):
    check_refused(SOUND[kind][1], SOUND[other][0])


@pytest.mark.parametrize("kind", SOUND)
def test_every_bit_counts(kind):
    """Only the bits that fill up the last byte of a packed stream may be otherwise: nothing comes of them."""
    form, content = SOUND[kind]
    whole, passed, reasons = read(content, form), 0, []
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            try:
                assert read(bytes(changed), form) == whole
                passed += 1
            except zipfile.BadZipFile as error:
                reasons.append(str(error))
                assert len(reasons[-1]) < 250
    assert passed <= (7 * 3 if kind == "plain" else 0)
    assert not [reason for reason in reasons if not reason.isprintable()]


@pytest.mark.parametrize("kind", SOUND)
def test_lost_and_added_bytes_are_refused(kind):
    form, content = SOUND[kind]
    for position in range(len(content)):
        check_refused(content[:position], form)
        check_refused(content[:position] + content[position + 1 :], form)
    for position in range(len(content) + 1):
        check_refused(content[:position] + b"Z" + content[position:], form)


def place_of(content, name, header):
    """Where a header of a file begins: its ``local`` or its ``central`` one."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if header == "local":
            return archive.getinfo(name).header_offset
        return content.index(name.encode(), archive.start_dir) - 46


# Field -> place in the local header, place in the central header, format.
FIELDS = {
    "version": (4, 6, "<H"),
    "flags (encryption among them)": (6, 8, "<H"),
    "compression method": (8, 10, "<H"),
    "time": (10, 12, "<H"),
    "date": (12, 14, "<H"),
    "checksum": (14, 16, "<L"),
    "packed size": (18, 20, "<L"),
    "size": (22, 24, "<L"),
    "length of the name": (26, 28, "<H"),
    "length of the extra field": (28, 30, "<H"),
}


@pytest.mark.parametrize("kind", ["plain", "numpy"])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.tried(
    "Archives and weights",
    "Archives whose headers differ from their directory in any field",
    "Refused with one line; nothing is installed.",
)
def test_header_that_differs_from_the_directory_is_named(kind, field):
    form, content = SOUND[kind]
    changed, (place, _, form_of) = bytearray(content), FIELDS[field]
    struct.pack_into(form_of, changed, place, 12345)
    assert f"the {field} of" in check_refused(changed, form)


FLAGS = {"encrypted": 0x1, "sizes afterwards": 0x8, "patched": 0x20, "strongly encrypted": 0x40, "masked": 0x2000}


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
def test_flag_in_both_headers_is_refused(flag):
    content = bytearray(SOUND["plain"][1])
    for header, place in (("local", 6), ("central", 8)):
        struct.pack_into("<H", content, place_of(content, "organ/a.txt", header) + place, flag)
    assert f"the flags (encryption among them) of 'organ/a.txt' is {flag}, expected is 0" in check_refused(content)


@pytest.mark.parametrize(("place", "field"), [(10, "method"), (12, "time"), (14, "date"), (6, "version")])
def test_field_that_both_headers_change_alike_is_refused(place, field):
    content = bytearray(SOUND["plain"][1])
    for header, start in (("local", place - 2), ("central", place)):
        struct.pack_into("<H", content, place_of(content, "organ/a.txt", header) + start, 77)
    assert field in check_refused(content)


@pytest.mark.parametrize("name", [b"organ/z.txt", b"organ/A.txt", b"../a/b.text"])
def test_name_that_differs_from_the_directory_is_refused(name):
    content = SOUND["plain"][1].replace(b"organ/a.txt", name, 1)
    assert "the header of 'organ/a.txt' has another name" in check_refused(content)


@pytest.mark.parametrize("count", [0, 2, 4, 65535])
@pytest.mark.tried("Archives and weights", "An end record that counts fewer or more files", "Refused.")
def test_end_record_of_another_number_of_files_is_refused(count):
    for places in ((8,), (10,), (8, 10)):
        content = bytearray(SOUND["plain"][1])
        for place in places:
            struct.pack_into("<H", content, len(content) - 22 + place, count)
        check_refused(content)


@pytest.mark.parametrize("kind", SOUND)
def test_file_behind_a_script_is_refused_in_a_short_line(kind):
    """Each place is wrong by the length of the script, so that bytes of a file are taken for a header or a name."""
    form, content = SOUND[kind]
    for prefix in (b"#!/bin/sh\n", b"#!/bin/sh\n" * 5000):
        check_refused(prefix + content, form)
    name = b"organ/" + b"a" * 60_000 + b".txt"
    assert "..." in check_refused(_zip({name.decode(): TEXT}).replace(name, name[:-1] + b"T", 1))


@pytest.mark.parametrize("kind", SOUND)
def test_second_end_record_is_refused(kind):
    form, content = SOUND[kind]
    check_refused(content + content[-22:], form)
    check_refused(content[:-22] + content[-22:] * 2, form)
    check_refused(content + _zip({"organ/other.txt": b"x"}), form)
    check_refused(_zip({"organ/other.txt": b"x"}) + content, form)


def test_end_records_of_64_bits_are_refused_where_they_do_not_belong():
    """Readers that know them believe them, and others the plain end record."""
    content = SOUND["plain"][1]
    count, length, place = struct.unpack_from("<HLL", content, len(content) - 12)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, place)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place + length, 1)
    check_refused(content[:-22] + wide + locator + content[-22:])


@pytest.mark.parametrize("place", [4, 12, 14, 16, 20, 24, 32, 40, 48, 56 + 4, 56 + 8, 56 + 16])
def test_end_record_of_64_bits_that_contradicts_the_plain_one_is_refused(place):
    form, content = SOUND["torch"]
    changed = bytearray(content)
    changed[content.rindex(b"PK\6\6") + place] ^= 1
    assert "its end records do not fit its directory" in check_refused(changed, form)


@pytest.mark.parametrize("hidden", [b"x", b"\0", b"\3\0", zlib.compress(b"hidden")])
@pytest.mark.tried(
    "Archives and weights",
    "Bytes hidden behind a compressed stream",
    "Refused: every byte is accounted for.",
)
def test_bytes_hidden_behind_a_packed_stream_are_refused(hidden):
    """Both headers count them; who unpacks the file does not see them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = compressor.compress(TEXT) + compressor.flush()
    content = SOUND["plain"][1]
    start = content.index(packed) + len(packed)
    changed = bytearray(content[:start] + hidden + content[start:])
    place = struct.unpack_from("<L", changed, len(changed) - 6)[0] + len(hidden)
    struct.pack_into("<L", changed, len(changed) - 6, place)
    struct.pack_into("<L", changed, 18, len(packed) + len(hidden))
    struct.pack_into("<L", changed, place + 20, len(packed) + len(hidden))
    for name in ("organ/b.txt", "organ/c.txt"):
        header = bytes(changed).index(name.encode(), place) - 46
        offset = struct.unpack_from("<L", changed, header + 42)[0]
        struct.pack_into("<L", changed, header + 42, offset + len(hidden))
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert archive.read("organ/a.txt") == TEXT, "others read it"
    assert "the packed bytes of 'organ/a.txt' end elsewhere than its directory says" in check_refused(changed)


def test_no_more_is_unpacked_than_the_directory_announces(monkeypatch):
    content = bytearray(_zip({"organ/a.txt": bytes(10**6)}))
    for place in (22, place_of(content, "organ/a.txt", "central") + 24):
        struct.pack_into("<L", content, place, 10)
    sizes, make = [], zlib.decompressobj

    class Watched:
        def __init__(self, *arguments):
            self.stream = make(*arguments)

        def decompress(self, packed, limit):
            sizes.append(len(unpacked := self.stream.decompress(packed, limit)))
            return unpacked

        def __getattr__(self, name):
            return getattr(self.stream, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert "end elsewhere than its directory says" in check_refused(content)
    assert sizes == [11]


@pytest.mark.parametrize("field", ["checksum", "size"])
def test_content_that_differs_from_both_headers_is_refused(field):
    content = bytearray(SOUND["plain"][1])
    local, central, form_of = FIELDS[field]
    value = struct.unpack_from(form_of, content, local)[0] + 1
    struct.pack_into(form_of, content, local, value)
    struct.pack_into(form_of, content, place_of(content, "organ/a.txt", "central") + central, value)
    assert "'organ/a.txt' has another size or checksum" in check_refused(content)


@pytest.mark.tried(
    "Archives and weights",
    "Comments, extra fields, and gaps between files",
    "Refused: every byte is accounted for.",
)
def test_comments_extra_fields_and_gaps_are_refused():
    def made(**settings):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.comment = settings.pop("whole", b"")
            entry = zipfile.ZipInfo("organ/a.txt")
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            for name, value in settings.items():
                setattr(entry, name, value)
            archive.writestr(entry, b"x")
        return buffer.getvalue()

    assert read(made(), PLAIN) == {"organ/a.txt": b"x"}
    assert "does not end with the end record" in check_refused(made(whole=b"hidden"))
    assert "length of the comment of 'organ/a.txt' is 6" in check_refused(made(comment=b"hidden"))
    assert "length of the extra field of 'organ/a.txt' is 8" in check_refused(made(extra=b"\xfe\xca\4\0abcd"))
    for attributes in (0o120777 << 16, 0o100644 << 16, 0o644 << 16 | 0x10, 0):
        assert "attributes (link, folder or device among them)" in check_refused(made(external_attr=attributes))
    assert "the kind of text of 'organ/a.txt' is 1" in check_refused(made(internal_attr=1))
    assert "the system of 'organ/a.txt' is 4884, expected is 20" in check_refused(made(create_system=19))
    assert read(made(create_system=0), PLAIN) == {"organ/a.txt": b"x"}, "written on Windows"


def test_file_between_files_that_the_directory_does_not_list_is_refused():
    content = SOUND["plain"][1]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        place = archive.start_dir
    hidden = _zip({"organ/hidden.txt": b"x"})
    hidden = hidden[: struct.unpack_from("<L", hidden, len(hidden) - 6)[0]]
    changed = bytearray(content[:place] + hidden + content[place:])
    struct.pack_into("<L", changed, len(changed) - 6, place + len(hidden))
    assert "hidden data before its directory" in check_refused(changed)


def test_files_that_share_their_bytes_are_refused():
    """The bomb that repeats one packed block under many names."""
    content = bytearray(SOUND["plain"][1])
    struct.pack_into("<L", content, place_of(content, "organ/c.txt", "central") + 42, 0)
    assert "the place of 'organ/c.txt' is 0" in check_refused(content)


def test_padding_of_torch_holds_nothing():
    form, content = SOUND["torch"]
    assert content[46:50] == b"FB\x0e\0"
    assert "extra data" in check_refused(content.replace(b"Z" * 14, b"Z" * 13 + b"!", 1), form)
    changed = bytearray(content)
    changed[46:50] = b"FB\x0d\0"
    assert "extra data" in check_refused(changed, form)
