"""Writes configs in one way: what fits on a line of 120 characters stands on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import write_atomically

WIDTH = 120
"""Number of characters of a line, at most; the same as of the code."""


def format_json(content: Any, *, first: int = 0, depth: int = 0) -> str:
    """Returns the text of JSON, each part on one line where it fits, its items on lines of their own where not.

    Args:
        content: What the text holds. The outermost object or list is always spread over several lines.
        first: Number of characters that stand before it on its line, and of those that follow it. Default 0.
        depth: Number of parts around it. Default 0.

    Example:
        >>> print(format_json({"a": [1, 2], "b": {"c": None}}))
        {
          "a": [1, 2],
          "b": {"c": null}
        }
    """
    flat = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, dict | list) or not content or (depth and first + len(flat) <= WIDTH):
        return flat
    indent = "  " * (depth + 1)
    names = [f"{json.dumps(key, ensure_ascii=False)}: " for key in content] if isinstance(content, dict) else []
    items = list(content.values()) if isinstance(content, dict) else content
    lines = [
        f"{indent}{name}{format_json(item, first=len(indent) + len(name) + 1, depth=depth + 1)}"
        for name, item in zip(names or [""] * len(items), items, strict=True)
    ]
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    return "\n".join([opening, ",\n".join(lines), "  " * depth + closing])


def format_configs(bundles: str = "bundles", *, check: bool = False) -> None:
    """Formats all configs of all bundles, and the glossary of their settings.

    Args:
        bundles: Folder of the bundles. Default ``bundles``.
        check: Whether files are only looked at, not written. Default false.

    Raises:
        ConfigError: With ``check``, naming the files that are formatted otherwise.
    """
    files = sorted([*Path(bundles).glob("*/configs/*.json"), *Path(bundles).glob("*.json")])
    wrong = {path: text for path in files if (text := _formatted(path)) != path.read_text(encoding="utf-8")}
    if check and wrong:
        raise ConfigError(f"{', '.join(map(str, wrong))}: not formatted; run 'make format'")
    for path, text in wrong.items():
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _formatted(path: Path) -> str:
    return format_json(json.loads(path.read_text(encoding="utf-8"))) + "\n"
