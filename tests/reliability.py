"""``python -m tests.reliability`` writes the tables of ``docs/reliability.md`` from the marks of the tests.

A mark is ``@pytest.mark.tried(topic, what, happens)``, with plain texts, so that it is found without running anything.
"""

import ast
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reliability.md"
BEGIN = "<!-- From here on written by: python -m tests.reliability -->\n"
TOPICS = (
    "Where a mask lies", "Damaged and unusable scans", "Size and memory", "Files of a folder", "Names",
    "DICOM", "Runs that are stopped", "Training that goes on", "Archives and weights", "Anything at random",
)  # fmt: skip
"""Sections of the page, in order."""


def marks_of(file):
    """The topic, what was tried, what happens and the name, of every marked test of a file."""
    text = file.read_text(encoding="utf-8")
    # Most files have no mark, and need not be parsed.
    for node in ast.walk(ast.parse(text if "mark.tried(" in text else "")):
        for mark in getattr(node, "decorator_list", ()):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.tried":
                yield (*map(ast.literal_eval, mark.args), node.name)


def tables(tests):
    """The sections with their tables, of all tests below a folder, those of one file together.

    Raises:
        ValueError: When a mark names a topic that is none, or a topic has no mark.
    """
    rows = defaultdict(list)
    for file in sorted(tests.rglob("test_*.py")):
        path = file.relative_to(tests.parent).as_posix()
        for topic, what, happens, name in marks_of(file):
            rows[topic].append(f'| {what} | {happens} | [test](../{path} "{name}") |\n')
    if rows.keys() != set(TOPICS):
        raise ValueError(f"topics without a mark, or marks of no topic: {sorted(rows.keys() ^ set(TOPICS))}")
    head = "| what was tried | what happens | test |\n|---|---|---|\n"
    return "\n".join(f"## {topic}\n\n{head}{''.join(rows[topic])}" for topic in TOPICS)


def page():
    """What the page should be: its introduction as it is, and the tables."""
    introduction, mark, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{introduction}{mark or BEGIN}\n{tables(REPOSITORY / 'tests')}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
