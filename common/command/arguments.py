"""Reads arguments of commands before Fire does, which would run a command before it finds what the command lacks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter

from ..errors import ConfigError
from ..runtime.nearest import did_you_mean
from ..runtime.next_command import PROGRAM
from .commands import Command
from .help import examples, usage

HELP = ("h", "help")

_FLAG = re.compile(r"--?(?P<name>[A-Za-z][^=]*)(?P<rest>=.*)?", re.DOTALL)

Commands = Mapping[str, Command]


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether arguments ask for help in place of a run, or are none.

    Args:
        arguments: Arguments of the command line, the name of a command among them or not.
    """
    own = itertools.takewhile(lambda argument: argument != "--", arguments)
    flags = [found["name"] for found in map(_FLAG.fullmatch, own) if found]
    return not arguments or any(flag in HELP for flag in flags)


def find_command(name: str, commands: Commands) -> Command:
    """Returns the command of a name.

    Args:
        name: What the command line names first.
        commands: Name -> command.

    Raises:
        ConfigError: When there is no such command, naming those that there are.
    """
    if name not in commands:
        raise ConfigError(f"there is no command {name}, but {', '.join(commands)}{did_you_mean(name, commands)}")
    return commands[name]


def spell_out(arguments: Sequence[str], commands: Commands, program: str = PROGRAM) -> list[str]:
    """Returns the arguments of a command line with whole names in place of single letters.

    ``-o`` stands for the place of the results and ``-b`` for the bundle, in every command; another letter for the only
    option that begins with it.

    Args:
        arguments: Name of the command and its arguments. Those behind ``--`` are Fire's own.
        commands: Name -> command.
        program: How the program is called, for errors. Default ``trustseg``.

    Raises:
        ConfigError: When there is no such command, or it has no such option, or lacks an argument or has one too many.
    """
    name = arguments[0]
    command = find_command(name, commands)
    spelled = [name]
    for place, argument in enumerate(arguments[1:], 1):
        if argument == "--":
            return spelled + list(arguments[place:])
        found = _FLAG.fullmatch(argument)
        spelled.append(
            argument if found is None else f"--{_whole_name(found['name'], name, commands)}{found['rest'] or ''}"
        )
    _check_places(spelled, command, program)
    return spelled


def _check_places(spelled: Sequence[str], command: Command, program: str) -> None:
    """Makes sure that a command gets what it needs, and not more than it takes by place."""
    name, *arguments = spelled
    flags = [found and found["name"] for found in map(_FLAG.fullmatch, arguments)]
    # What follows a flag without its own value is that flag's.
    valued = [bool(flag) and "=" not in argument for flag, argument in zip(flags, arguments, strict=True)]
    placed = [
        argument
        for argument, flag, before in zip(arguments, flags, [False, *valued], strict=False)
        if not flag and not before
    ]
    named = {str(flag).replace("-", "_") for flag in flags if flag}
    places = [o for o in command.options.values() if o.kind is Parameter.POSITIONAL_OR_KEYWORD and o.name not in named]
    given = named | {option.name for option in places[: len(placed)]}
    missing = [option for option in command.needed if option not in given]
    for flag in named - command.options.keys():
        # A command that takes any option of a config: this one was meant to be what is missing.
        if hint := did_you_mean(flag, missing, before="--"):
            raise ConfigError(f"unknown option --{flag} of {name}{hint}")
    if missing:
        wanted = [f"-o {option.upper()}" if option == command.results else option.upper() for option in missing]
        text = command.places or " and ".join(wanted)
        example = [*examples(command, program), usage(name, command, program)][0]
        raise ConfigError(f"{name} needs {text}, as in '{example}'; {program} {name} --help explains it")
    many = any(option.kind is Parameter.VAR_POSITIONAL for option in command.options.values())
    if placed[len(places) :] and not many:
        raise ConfigError(
            f"{name} does not take {placed[len(places)]!r} as well; several scans or folders are one list: "
            "\"['a','b']\""
        )


def _whole_name(given: str, name: str, commands: Commands) -> str:
    """The name of an option, which a single letter may stand for; options of a config may have any other."""
    command = commands[name]
    if len(given) == 1:
        fitting = command.letter_options(given)
        if len(fitting) > 1:
            options = " or ".join(f"--{option}" for option in fitting)
            raise ConfigError(f"-{given} of {name} may stand for {options}; write the one that is meant")
        if not fitting:
            raise ConfigError(_unknown(f"-{given}", name, commands))
        return fitting[0]
    own = [option.name for option in command.options.values() if option.kind is not Parameter.VAR_KEYWORD]
    if len(own) == len(command.options) and given.replace("-", "_") not in {*own, *(f"no{option}" for option in own)}:
        raise ConfigError(_unknown(f"--{given}", name, commands))
    return given


def _unknown(flag: str, name: str, commands: Commands) -> str:
    """The line on an option that a command does not have, what is near it, and which commands have it."""
    given = flag.lstrip("-").replace("-", "_")
    own = [option.name for option in commands[name].options.values() if option.kind is not Parameter.VAR_KEYWORD]
    others = [other for other, command in commands.items() if given in command.options]
    known = f" ({flag} is an option of {', '.join(others)})" if others else ""
    hint = did_you_mean(given, own, before="--")
    return f"unknown option {flag} of {name}, which takes {', '.join(f'--{option}' for option in own)}{known}{hint}"
