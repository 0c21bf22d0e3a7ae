"""Reads arguments of commands before Fire does, which would run a command before it finds what the command lacks."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from ..errors import ConfigError

RESULTS = ("output_dir", "output_file", "output", "into", "bank_file")
"""Names of what ``-o`` stands for, the first that a command has."""

HELP = ("h", "help")

_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(?P<name>\w+)`")
"""How documentation refers to code, as Sphinx reads it."""

_FLAG = re.compile(r"--?(?P<name>[A-Za-z][^=]*)(?P<rest>=.*)?", re.DOTALL)

Commands = Mapping[str, Callable[..., None]]


def spell_out(arguments: Sequence[str], commands: Commands) -> list[str]:
    """Returns the arguments of a command line with whole names in place of single letters.

    A letter stands for the only option that begins with it, ``-o`` for the place of the results.

    Args:
        arguments: Name of the command and its arguments. Those behind ``--`` are Fire's own.
        commands: Name -> function.

    Raises:
        ConfigError: When there is no such command, or it has no such option, or lacks an argument or has one too many.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    command = arguments[0]
    if command not in commands:
        near = difflib.get_close_matches(command, commands, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no command {command}, but {', '.join(commands)}{hint}")
    options = inspect.signature(commands[command]).parameters
    own = [name for name, option in options.items() if option.kind is not inspect.Parameter.VAR_KEYWORD]
    spelled = [command]
    flags = list(itertools.takewhile(lambda argument: argument != "--", arguments[1:]))
    if any((found := _FLAG.fullmatch(flag)) and found["name"] in HELP for flag in flags):
        # Fire's own flag: a command with ``**`` options would take it for one of these.
        return [command, "--", "--help"]
    for place, argument in enumerate(arguments[1:], 1):
        if argument == "--":
            return spelled + list(arguments[place:])
        found = _FLAG.fullmatch(argument)
        if found is None:
            spelled.append(argument)
            continue
        name = _whole_name(found["name"], {name: options[name] for name in own})
        if len(own) == len(options) and name.replace("-", "_") not in {*own, *(f"no{option}" for option in own)}:
            raise ConfigError(_unknown(argument, command, own, commands))
        spelled.append(f"--{name}{found['rest'] or ''}")
    _check_places(spelled, options)
    return spelled


def _check_places(spelled: Sequence[str], options: Mapping[str, inspect.Parameter]) -> None:
    """Makes sure that a command gets what it needs, and not more than it takes by place."""
    command, *arguments = spelled
    flags = [found and found["name"] for found in map(_FLAG.fullmatch, arguments)]
    # What follows a flag without its own value is that flag's.
    valued = [bool(flag) and "=" not in argument for flag, argument in zip(flags, arguments, strict=True)]
    placed = [
        argument
        for argument, flag, before in zip(arguments, flags, [False, *valued], strict=False)
        if not flag and not before
    ]
    named = {str(flag).replace("-", "_") for flag in flags if flag}
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [option for name, option in options.items() if option.kind in kinds and name not in named]
    missing = [option.name.upper() for option in places[len(placed) :] if option.default is inspect.Parameter.empty]
    if missing:
        raise ConfigError(f"{command} needs {' and '.join(missing)}; {command} --help explains them")
    many = any(option.kind is inspect.Parameter.VAR_POSITIONAL for option in options.values())
    if placed[len(places) :] and not many:
        raise ConfigError(
            f"{command} does not take {placed[len(places)]!r} as well; several scans or folders are one list: "
            "\"['a','b']\""
        )


def _whole_name(name: str, options: Mapping[str, inspect.Parameter]) -> str:
    """The name of an option that a single letter stands for; arguments that are needed come behind true options."""
    if len(name) > 1:
        return name
    results = [option for option in RESULTS if option in options] if name == "o" else []
    begun = [option for option in options if option.startswith(name)]
    free = [option for option in begun if options[option].default is not inspect.Parameter.empty]
    fitting = results[:1] or free or begun
    return fitting[0] if len(fitting) == 1 else name


def _unknown(argument: str, command: str, own: Sequence[str], commands: Commands) -> str:
    """The line on an option that a command does not have, and which commands have it."""
    name = argument.partition("=")[0]
    others = [
        other
        for other, function in commands.items()
        if name.lstrip("-").replace("-", "_") in inspect.signature(function).parameters
    ]
    known = f" ({name} is an option of {', '.join(others)})" if others else ""
    return f"unknown option {name} of {command}, which takes {', '.join(f'--{option}' for option in own)}{known}"


def show_plainly(command: Callable[..., None]) -> None:
    """Makes the documentation of a command what a terminal shows as help.

    Marks for Sphinx go. What is said of ``**`` options moves to the description: Fire glues it to the last flag.

    Args:
        command: Function that Fire shows the help of.
    """
    text = _ROLE.sub(r"\g<name>", inspect.getdoc(command) or "").replace("``", "")
    command.__doc__ = text
    found = re.search(r"^ +\*\*\w+: (?P<rest>.*?)(?=\n\n|\n {4}\w|\Z)", text, re.DOTALL | re.MULTILINE)
    if found is not None:
        rest = " ".join(found["rest"].split())
        without = text[: found.start()].rstrip() + text[found.end() :]
        command.__doc__ = without.replace("\nArgs:", f"\n{rest}\n\nArgs:", 1)
