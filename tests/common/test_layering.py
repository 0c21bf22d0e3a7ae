"""Which part of the shared package may import which: the table of CONTRIBUTING.md, kept."""

import ast
import re
from pathlib import Path

import pytest

ROW = re.compile(r"^\| `(\w+)` \| .* \| (.*) \|$", re.MULTILINE)


def read_table(repository):
    """Part -> parts that it may import, as CONTRIBUTING.md says."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {part: set(re.findall(r"`(\w+)`", allowed)) for part, allowed in ROW.findall(text)}


def imported_parts(root, file):
    """Parts of the shared package that a file imports, beside its own; relative and absolute imports alike."""
    package = ["common", *file.relative_to(root).parts[:-1]]
    own = file.relative_to(root).with_suffix("").parts[0]
    parts = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*path, alias.name] for alias in node.names] if len(path) < 2 else [path]
        else:
            continue
        parts |= {name[1] for name in names if name[0] == "common" and len(name) > 1}
    return parts - {own}


def test_every_part_has_a_row(repository):
    root = repository / "common"
    parts = {file.relative_to(root).with_suffix("").parts[0] for file in root.rglob("*.py")}
    assert read_table(repository).keys() == parts - {"__init__"}


def test_no_part_imports_what_the_table_does_not_allow(repository):
    root, table = repository / "common", read_table(repository)
    broken = {
        str(file.relative_to(root)): sorted(
            imported_parts(root, file) - table[file.relative_to(root).with_suffix("").parts[0]]
        )
        for file in sorted(root.rglob("*.py"))
        if file != root / "__init__.py"
    }
    assert {file: parts for file, parts in broken.items() if parts} == {}


def test_no_circle(repository):
    remaining = read_table(repository)
    while remaining:
        free = {part for part, allowed in remaining.items() if not allowed & remaining.keys()}
        assert free, f"these import one another: {sorted(remaining)}"
        remaining = {part: allowed for part, allowed in remaining.items() if part not in free}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from ..errors import ConfigError", {"errors"}),
        ("from .. import errors", {"errors"}),
        ("from .network import Network", set()),
        ("from common.data.split import CaseSplit", {"data"}),
        ("import common.runtime.files", {"runtime"}),
        ("import torch", set()),
    ],
)
def test_imports_are_found(tmp_path, line, expected):
    file = Path(tmp_path, "engine", "cases.py")
    file.parent.mkdir()
    file.write_text(line)
    assert imported_parts(tmp_path, file) == expected
