"""Reads commands from the source of their functions, so that neither help nor errors of use import what they need."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from typing import Any

RESULTS = ("output_dir", "output_file", "output", "into", "bank_file")
"""Names of the place of the results, the first that a command has."""

LETTERS = {"o": RESULTS, "b": ("bundle", "bundles"), "h": ("help",)}
"""Letter -> options, of which it stands for the first that a command has; it never stands for any other."""

_PACKAGE = Path(__file__).resolve().parents[1]

_VARIOUS = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(?P<name>\w+)`")
"""How documentation refers to code, as Sphinx reads it."""


@dataclass(frozen=True)
class Command:
    """A command of the command line: a function that is imported when it is called.

    Args:
        place: Module below the shared package, and the function in it, as in ``planning.command:plan_training``.
        places: What the command takes by place, as its help shows it, where optional arguments are among it. By
            default empty, for all that are needed.
    """

    place: str
    places: str = ""

    def load(self) -> Callable[..., None]:
        """Returns the function, whose module is imported."""
        module, name = self.place.split(":")
        function: Callable[..., None] = getattr(import_module(f"..{module}", __package__), name)
        return function

    @cached_property
    def _definition(self) -> ast.FunctionDef:
        """The function as its source has it."""
        module, name = self.place.split(":")
        tree = ast.parse(_PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)

    @cached_property
    def options(self) -> Mapping[str, Parameter]:
        """Name -> argument of the function; annotations and defaults are text."""
        told = self._definition.args
        placed = [*told.posonlyargs, *told.args]
        defaults: list[ast.expr | None] = [None] * (len(placed) - len(told.defaults))
        defaults += told.defaults
        found = [_parameter(a, Parameter.POSITIONAL_OR_KEYWORD, d) for a, d in zip(placed, defaults, strict=True)]
        found += [_parameter(told.vararg, Parameter.VAR_POSITIONAL)] if told.vararg else []
        named = zip(told.kwonlyargs, told.kw_defaults, strict=True)
        found += [_parameter(argument, Parameter.KEYWORD_ONLY, default) for argument, default in named]
        found += [_parameter(told.kwarg, Parameter.VAR_KEYWORD)] if told.kwarg else []
        return {option.name: option for option in found}

    @cached_property
    def text(self) -> str:
        """The documentation of the function, without marks for Sphinx."""
        return _ROLE.sub(r"\g<name>", ast.get_docstring(self._definition) or "").replace("``", "")

    @property
    def summary(self) -> str:
        """What the command does, in one line."""
        return self.text.partition("\n")[0]

    @property
    def results(self) -> str | None:
        """Name of the option that says where the results go; ``None`` where there is none."""
        return next((name for name in RESULTS if name in self.options), None)

    @property
    def needed(self) -> list[str]:
        """Names of the arguments that have no default; of those of any number, none is needed here."""
        options = self.options.values()
        return [o.name for o in options if o.kind not in _VARIOUS and o.default is Parameter.empty]

    @property
    def by_place(self) -> dict[str, str]:
        """Argument -> how it is shown, of those that are given by place; any number of them has a star as in code."""
        shown = {}
        for name, option in self.options.items():
            if option.kind is Parameter.VAR_POSITIONAL:
                shown[f"*{name}"] = f"[{name.upper()} ...]"
            elif name.upper() in self.places or (name in self.needed and name != self.results):
                shown[name] = name.upper()
        return shown

    def letter_options(self, letter: str) -> list[str]:
        """Returns the options that a letter may stand for: one for what it means everywhere, else all that begin so.

        An option has one letter at most. What is given by place comes behind the others.

        Args:
            letter: A single letter.
        """
        if letter in LETTERS:
            return [name for name in LETTERS[letter] if name in self.options][:1]
        fixed = [name for other in LETTERS for name in self.letter_options(other)]
        begun = [
            name
            for name, option in self.options.items()
            if name.startswith(letter) and option.kind not in _VARIOUS and name not in fixed
        ]
        return [name for name in begun if name not in self.by_place] or begun


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None = None) -> Parameter:
    """An argument of a function, its annotation and its default as texts."""
    annotation = Parameter.empty if argument.annotation is None else ast.unparse(argument.annotation)
    value = Parameter.empty if default is None else ast.unparse(default)
    return inspect.Parameter(argument.arg, kind, default=value, annotation=annotation)
