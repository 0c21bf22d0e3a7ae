"""Checks that a file is what its name says: text is text, and nothing is a pickle under another name."""

from __future__ import annotations

import pickletools
from pathlib import PurePosixPath

from ..errors import ArchiveError

_CONTROLS = frozenset(map(chr, [*range(32), 127])) - set("\t\n\r\f")
_PICTURE = (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")
_CALLS = ("REDUCE", "BUILD", "OBJ", "INST", "STOP")
"""What calls a function that a pickle has named, or hands it out."""


def check_kind(path: str, content: bytes, where: str) -> None:
    """Refuses a file that is not what its name says; weights and banks are looked at by what reads them.

    Args:
        path: Path of the file in the archive, whose suffix says what it must be.
        content: Bytes of the file.
        where: Name of the archive in messages.

    Raises:
        ArchiveError: When it is a pickle, a picture that is none, or a text with characters that no text has.
    """
    suffix = PurePosixPath(path).suffix
    if suffix in (".pt", ".npz"):
        return
    if is_pickle(content):
        raise ArchiveError(f"{where}: {path} is a pickle, which may hold anything; do not load it")
    if suffix == ".png":
        if not (content.startswith(_PICTURE[0]) and content.endswith(_PICTURE[1])):
            raise ArchiveError(f"{where}: {path} is no PNG picture; get the archive again")
    elif not _is_text(content):
        raise ArchiveError(f"{where}: {path} is no text in UTF-8; get the archive again")


def is_pickle(content: bytes) -> bool:
    r"""Returns whether reading a file as a pickle would call a function that it names.

    Protocols from 2 on start with their number. Older ones look like text, and a text may start like one. So what it
    would leave on the stack is followed, without anything being run.

    Args:
        content: Bytes of the file.

    Example:
        >>> is_pickle(b"case\ncase_0\n"), is_pickle(b"cos\nsystem\n(Vls\ntR.")
        (False, True)
    """
    if content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return True
    stack: list[bool] = []
    named = False
    try:
        for opcode, _, _ in pickletools.genops(content):
            _take(stack, opcode)
            named = named or opcode.name in ("GLOBAL", "INST")
            if named and opcode.name in _CALLS:
                return True
            stack += [item is pickletools.markobject for item in opcode.stack_after]
    except (ValueError, IndexError):
        # Neither an operation nor what one needs: a text. Whatever comes before has called nothing.
        return False
    return False


def _take(stack: list[bool], opcode: pickletools.OpcodeInfo) -> None:
    """Removes what an operation takes from the stack, on which marks are true.

    Raises:
        ValueError: When there is no mark.
        IndexError: When there is too little.
    """
    takes = list(opcode.stack_before)
    if pickletools.markobject in takes:
        mark = len(stack) - 1 - stack[::-1].index(True)
        del stack[mark:]
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes:
        stack.pop()


def _is_text(content: bytes) -> bool:
    """Whether bytes are text in UTF-8 without control characters."""
    try:
        return _CONTROLS.isdisjoint(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False
