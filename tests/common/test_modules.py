"""The first line of every module of the shared package."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "common"


def test_first_line_begins_with_a_verb_and_is_a_sentence_of_under_25_words():
    texts = {
        path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in PACKAGE.rglob("*.py")
    }
    first = {path.relative_to(PACKAGE).as_posix(): text.split("\n")[0] for path, text in texts.items()}
    assert len(first) > 100
    bad = {name for name, line in first.items() if not re.match(r"[A-Z][a-z-]+s[ ,:]", line) or len(line.split()) >= 25}
    assert not bad
