"""The first line of every module of the shared package."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "common"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_first_line_begins_with_a_verb_and_is_short(path):
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    assert re.match(r"[A-Z][a-z-]+s[ ,:]", first), first
    assert len(first.split()) < 25, "a sentence of under 25 words"
