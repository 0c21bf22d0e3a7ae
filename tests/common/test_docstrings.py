"""How docstrings of the shared package read: every argument is described by a phrase."""

import ast
import re

import pytest

SECTION = re.compile(r"^Args:\n((?: {4}.*\n?|\n(?= {4}))+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+): ?(.*(?:\n {8}.*)*)", re.MULTILINE)
CONTINUATIONS = ("Of", "For", "From", "To", "By", "At", "As", "Which", "That", "Whose")
"""Words with which an entry only continues the name of the argument."""


def argument_entries(docstring):
    """Name and text of every entry of the sections of arguments."""
    sections = SECTION.findall(docstring)
    return [(name, " ".join(text.split())) for section in sections for name, text in ENTRY.findall(section)]


def fault(text):
    """What is wrong with the text of an argument; nothing where it is a phrase."""
    if not re.match(r"[A-Z0-9`'\"]", text):
        return "does not start with a capital letter, a digit or a quote"
    if not text.endswith("."):
        return "does not end with a period"
    if len(text.split()) < 2:
        return "is a single word"
    if text.split()[0] in CONTINUATIONS:
        return "continues the name instead of saying what it is"
    return None


def documented_files(repository):
    """Every file of the shared package with its syntax tree."""
    root = repository / "common"
    for file in sorted(root.rglob("*.py")):
        yield str(file.relative_to(root)), ast.parse(file.read_text(encoding="utf-8"))


def documented_entries(repository):
    """Place, name and text of every documented argument."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path, tree in documented_files(repository):
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                for name, text in argument_entries(ast.get_docstring(node) or ""):
                    yield f"{path}:{node.lineno} {name}", text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seed of the draw.", None),
        ("``(B, C)`` logits.", None),
        ("2 or 3.", None),
        ("seed of the draw.", "capital"),
        ("Seed of the draw", "period"),
        ("Seed.", "single word"),
        ("Of the draw.", "continues"),
    ],
)
def test_phrases_are_told_from_fragments(text, expected):
    found = fault(text)
    assert found is None if expected is None else expected in found


def test_entries_are_found_with_their_second_lines():
    docstring = "Draws.\n\nArgs:\n    seed: Of the\n        draw.\n    **kwargs: Other.\n\nReturns:\n    none: This.\n"
    assert argument_entries(docstring) == [("seed", "Of the draw."), ("**kwargs", "Other.")]


def test_every_argument_is_described_by_a_phrase(repository):
    entries = dict(documented_entries(repository))
    assert len(entries) > 300
    assert {place: found for place, text in entries.items() if (found := fault(text))} == {}
