"""Writes the help of the command line: all commands, or how one is used, with its options and examples."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping
from inspect import Parameter

from ..runtime.next_command import PROGRAM
from .commands import Command

WIDEST = 110
"""Most characters of a line."""

_SECTION = re.compile(r"^(Args|Raises|Returns|Example):\n", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (?P<name>\*{0,2}\w+): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)


def commands_page(commands: Mapping[str, Command], program: str = PROGRAM) -> str:
    """Returns the help of the whole: every command in a line.

    Args:
        commands: Name -> command.
        program: How the program is called. Default ``trustseg``.
    """
    width = max(map(len, commands))
    lines = [f"usage: {program} COMMAND ...", "", "commands:"]
    lines += [line for name, command in commands.items() for line in _item(name, command.summary, width)]
    return "\n".join([*lines, "", f"{program} COMMAND --help tells what a command takes, with examples"])


def command_page(name: str, command: Command, program: str = PROGRAM) -> str:
    """Returns the help of a command: usage, what it does, examples, what it needs, and its options.

    Args:
        name: Name of the command.
        command: The command.
        program: How the program is called. Default ``trustseg``.
    """
    parts = _sections(command.text)
    told = {found["name"]: " ".join(found["text"].split()) for found in _ARGUMENT.finditer(parts.get("Args", ""))}
    described = [" ".join(part.split()) for part in parts[""].split("\n\n")]
    described += [told[given] for given in told if given.startswith("**")]
    lines = [f"usage: {usage(name, command, program)}", *(line for part in described for line in ["", *_wrap(part)])]
    found = examples(command, program)
    lines += ["", f"example{'s' if found[1:] else ''}:", *(f"  {line}" for line in found)] if found else []
    for title, shown in (("arguments", command.by_place), ("options", _flags(command))):
        lines += ["", f"{title}:"] if shown else []
        lines += [line for option, head in shown.items() for line in _item(head, told[option], 24)]
    return "\n".join(lines)


def usage(name: str, command: Command, program: str = PROGRAM) -> str:
    """Returns how a command is called: what it needs, and in brackets what may be left out.

    Args:
        name: Name of the command.
        command: The command.
        program: How the program is called. Default ``trustseg``.
    """
    words, flags = [program, name, command.places or " ".join(command.by_place.values())], set(_flags(command))
    if command.results is not None:
        flag = f"-o {command.results.upper()}"
        words += [flag if command.results in command.needed else f"[{flag}]"]
    words += ["[options]"] if flags - {command.results} else []
    return " ".join(word for word in words if word)


def examples(command: Command, program: str = PROGRAM) -> list[str]:
    """Returns the examples in the documentation of a command.

    Args:
        command: The command.
        program: How the program is called. Default ``trustseg``.
    """
    lines = _sections(command.text).get("Example", "").splitlines()
    return [line.strip().replace(PROGRAM, program, 1) for line in lines if line.strip().startswith(PROGRAM)]


def _sections(text: str) -> dict[str, str]:
    """Title -> text of the sections of a documentation; what comes before the first one has none."""
    first, *rest = _SECTION.split(text)
    return {"": first.strip()} | dict(zip(rest[::2], rest[1::2], strict=True))


def _flags(command: Command) -> dict[str, str]:
    """Option -> how it is typed, of those that are not given by place."""
    flags = {}
    for name, option in command.options.items():
        if name in command.by_place or option.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            continue
        letter = "o" if name == command.results else name[0]
        short = f"-{letter}, " if command.letter_options(letter) == [name] else ""
        flags[name] = f"{short}--{name}" + ("" if option.annotation == "bool" else f" {name.upper()}")
    return flags


def _item(head: str, text: str, width: int) -> list[str]:
    """The lines of an item of a list; a long head has a line of its own."""
    body = _wrap(text, " " * (width + 4))
    if len(head) > width:
        return [f"  {head}", *body]
    return [f"  {head:<{width}}  {body[0].strip()}", *body[1:]]


def _wrap(text: str, indent: str = "") -> list[str]:
    """The lines of a text, as wide as the terminal."""
    width = min(WIDEST, max(60, shutil.get_terminal_size((WIDEST, 24)).columns))
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
