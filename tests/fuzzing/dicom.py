"""DICOM slices of which every attribute may be anything, written byte by byte, as no library would write them."""

import struct
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing.edits import EDITS, edited

PATIENT = "SECRET^PATIENT"
SYNTAXES = [
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.3", "",
]  # fmt: skip
"""Ways in which a file may be written: uncompressed, deflated, of the other order, JPEG, RLE, and none."""
KINDS = [
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.1.3.10", "1.9", "",
]  # fmt: skip
"""Kinds of objects: CT, MR, multi-frame CT, segmentation, report, DICOMDIR, private and none."""
COLORS = ["MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_ICT", "", "mono", "\x1b[2J"]
NUMBERS = [
    "0", "-0", "1", "-1", "0.5", "1e-30", "1e30", "1e400", "nan", "inf", "", " ", "x", "1,5", "9" * 40, "1.2.3",
    "\x1b[31m",
]  # fmt: skip
WORDS = [0, 1, 2, 3, 4, 7, 8, 9, 10, 12, 16, 31, 32, 64, 255, 512, 2**15, 2**16 - 1]
UIDS = ["1.2.3", "1.2.4", "", "x", "../../x", "1" * 70, "1.2.3\n", PATIENT, "1..2", "0.0"]

SOUND = {
    (0x0008, 0x0005): ("CS", "ISO_IR 100"),
    (0x0008, 0x0008): ("CS", "ORIGINAL\\PRIMARY"),
    (0x0008, 0x0016): ("UI", KINDS[0]),
    (0x0008, 0x0060): ("CS", "CT"),
    (0x0010, 0x0010): ("PN", PATIENT),
    (0x0010, 0x0020): ("LO", PATIENT),
    (0x0020, 0x000D): ("UI", "1.2"),
    (0x0020, 0x0037): ("DS", "1\\0\\0\\0\\1\\0"),
    (0x0020, 0x0052): ("UI", "1.2.9"),
    (0x0028, 0x0002): ("US", 1),
    (0x0028, 0x0004): ("CS", "MONOCHROME2"),
    (0x0028, 0x0010): ("US", 8),
    (0x0028, 0x0011): ("US", 9),
    (0x0028, 0x0030): ("DS", "0.7\\0.5"),
    (0x0028, 0x0100): ("US", 16),
    (0x0028, 0x0101): ("US", 16),
    (0x0028, 0x0102): ("US", 15),
    (0x0028, 0x0103): ("US", 1),
    (0x0028, 0x1052): ("DS", "-1024"),
    (0x0028, 0x1053): ("DS", "1"),
}
"""What all slices have in common, as (group, element): (value representation, value)."""
SYNTAX, SERIES, PIXELS = (0x0002, 0x0010), (0x0020, 0x000E), (0x7FE0, 0x0010)
OPTIONAL = {(0x0028, 0x0006): ("US", 0), (0x0028, 0x0008): ("IS", "1"), (0x0028, 0x1050): ("DS", "40")}
OWN = {
    (0x0008, 0x0018): ("UI", "1.2.3.{series}.{number}"),
    SERIES: ("UI", "1.2.3.{series}"),
    (0x0020, 0x0013): ("IS", "{number}"),
    (0x0020, 0x0032): ("DS", "10\\20\\{place}"),
}
"""What every slice has of its own."""
SHORT = {"UI", "CS", "DS", "IS", "US", "PN", "LO"}


def _element(tag, kind, value):
    """The bytes of one element, explicit and little endian; odd lengths stay odd."""
    raw = struct.pack("<H", value) if isinstance(value, int) else value
    raw = raw.encode("latin-1", "replace") if isinstance(raw, str) else raw
    head = struct.pack("<HH", *tag) + kind.encode()
    length = struct.pack("<H", len(raw)) if kind in SHORT else struct.pack("<HI", 0, len(raw))
    return head + length + raw


@dataclass(frozen=True)
class Series:
    """A series that differs from a sound one: attributes of all or of one slice, and damage to one file."""

    changes: list
    edits: list
    slices: int
    nested: bool

    def files(self, series):
        """The bytes of its files."""
        contents = [self._content(series, number) for number in range(self.slices)]
        contents[0] = edited(contents[0], self.edits)
        return contents

    def _content(self, series, number):
        place = {"series": series, "number": number, "place": 3 * number}
        pixels = np.random.default_rng(series + number).integers(1024, 2000, 72).astype("<i2").tobytes()
        elements = SOUND | {tag: (kind, text.format(**place)) for tag, (kind, text) in OWN.items()}
        elements |= {SYNTAX: ("UI", SYNTAXES[1] + "\0"), PIXELS: ("OW", pixels)}
        for tag, which, value in self.changes:
            if which is not None and which != number:
                continue
            if value is None:
                elements.pop(tag, None)
            else:
                elements[tag] = (elements.get(tag, OPTIONAL.get(tag, ("", "")))[0], value)
        body = b"".join(_element(tag, *element) for tag, element in sorted(elements.items()) if tag > SYNTAX)
        meta = _element(SYNTAX, *elements[SYNTAX]) if SYNTAX in elements else b""
        length = _element((0x0002, 0x0000), "UL", struct.pack("<I", len(meta)))
        # UL has a short length.
        length = length[:6] + struct.pack("<H", 4) + length[-4:]
        return bytes(128) + b"DICM" + length + meta + body


def _texts(kind, value):
    """What may stand in place of a value."""
    if kind == "US":
        return st.sampled_from(WORDS) | st.integers(0, 2**16 - 1)
    if kind in ("DS", "IS"):
        count = str(value).count("\\") + 1
        numbers = st.sampled_from(NUMBERS)
        fitting = st.lists(numbers, min_size=count, max_size=count).map("\\".join)
        return fitting | st.lists(numbers, max_size=8).map("\\".join) | st.binary(max_size=9)
    if kind == "UI":
        return st.sampled_from(UIDS) | st.sampled_from(KINDS)
    return st.sampled_from(COLORS) | st.sampled_from(["CT", "MR", "", "US", "DERIVED\\SECONDARY", PATIENT])


_CHOICES = SOUND | OWN | OPTIONAL | {SYNTAX: ("", ""), PIXELS: ("", "")}


def _value(tag):
    """A value of an attribute, or none where it is missing."""
    if tag == SYNTAX:
        values = st.sampled_from(SYNTAXES)
    elif tag == PIXELS:
        values = st.sampled_from([b"", b"\0", bytes(143), bytes(144), bytes(145), bytes(288), b"\xff" * 5000])
    else:
        values = _texts(*_CHOICES[tag])
    return st.none() | values | values | values


CHANGES = st.sampled_from(sorted(_CHOICES)).flatmap(
    lambda tag: st.tuples(st.just(tag), st.sampled_from([None, None, 0, 1, 3]), _value(tag))
)
SERIES_LISTS = st.lists(
    st.builds(
        Series,
        changes=st.lists(CHANGES, min_size=1, max_size=2),
        edits=st.integers(0, 5).flatmap(lambda n: st.lists(EDITS, min_size=1, max_size=2) if n == 5 else st.just([])),
        slices=st.integers(3, 5),
        nested=st.booleans(),
    ),
    min_size=6,
    max_size=9,
)
