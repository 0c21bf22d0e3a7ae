"""An error that says what something is names an argument of the function or class that raises it, or an option."""

import ast
import json
import re

import pytest

SAYS = re.compile(r"([a-z_][a-z0-9_]*) (?:is|are|names|holds|must|has) ")
WORDS = {"a", "an", "it", "there", "this", "that", "nothing"}


def arguments_of(scopes):
    """Arguments of the functions around a place, and of all methods of the classes around it."""
    functions = [node for node in scopes if isinstance(node, ast.FunctionDef)]
    functions += [part for node in scopes if isinstance(node, ast.ClassDef) for part in node.body]
    own = [node.args for node in functions if isinstance(node, ast.FunctionDef)]
    return {argument.arg for part in own for argument in [*part.args, *part.kwonlyargs]}


def unknown_names(node, options, scopes=()):
    """First words of raised messages that are neither arguments nor options, with their lines."""
    for child in ast.iter_child_nodes(node):
        around = (*scopes, child) if isinstance(child, ast.FunctionDef | ast.ClassDef) else scopes
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and child.exc.args:
            text = child.exc.args[0]
            text = text.values[0] if isinstance(text, ast.JoinedStr) and text.values else text
            match = SAYS.match(str(text.value)) if isinstance(text, ast.Constant) else None
            if match and match[1] not in arguments_of(around) | options | WORDS:
                yield child.lineno, match[1]
        yield from unknown_names(child, options, around)


def test_errors_name_arguments_or_options(repository):
    options = set(json.loads((repository / "bundles" / "settings.json").read_text(encoding="utf-8")))
    files = sorted((repository / "common").rglob("*.py"))
    found = {str(file): list(unknown_names(ast.parse(file.read_text(encoding="utf-8")), options)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(("name", "expected"), [("sd", [(3, "sd")]), ("size", []), ("noise_sd", []), ("rate", [])])
def test_other_names_are_found(name, expected):
    code = f"class A:\n  def f(self, size):\n    raise E(f'{name} is {{size}}')\n  def g(self, *, rate): pass"
    assert list(unknown_names(ast.parse(code), {"noise_sd"})) == expected
