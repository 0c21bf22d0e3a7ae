"""Writes the page of a bundle's options from its configs and the words in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import write_atomically

WORDS = "_desc_"
"""Key of words: at the top level option -> text, inside a component its text; MONAI passes over both."""

WORKFLOWS = ("train", "inference", "evaluate")
"""Config files that run alone; an option is described in the first of them that has it."""

PAGE = "docs/knobs.md"
OTHER_FILES = ("metadata", *WORKFLOWS)

INTRODUCTION = """# Options of {name}

Every option of the command line is a top-level key of the configs: `--key value`. An option that does not exist is
refused by name. Nested keys are joined by `#`, as in `--network_def#norm batch`. In a checkout,
`python -m common knobs` writes this page from the configs.
"""


def read_configs(bundle: Path) -> dict[str, dict[str, Any]]:
    """Returns the config files of a bundle, by name without suffix, those that run alone first."""
    names = sorted(path.stem for path in (bundle / "configs").glob("*.json") if path.stem not in OTHER_FILES)
    files = {name: bundle / "configs" / f"{name}.json" for name in (*WORKFLOWS, *names)}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}


def plain_keys(config: Mapping[str, Any]) -> list[str]:
    """Returns the top-level keys that hold settings alone: neither components nor references nor expressions.

    Example:
        >>> plain_keys({"seed": 0, "network_def": {"_target_": "UNet"}, "run": ["$@trainer.run()"], "a#b": 1})
        ['seed']
    """
    return [key for key, value in config.items() if key != WORDS and "#" not in key and not _refers(value)]


def check_words(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Makes sure that every setting is described once, in the first config that has it.

    Args:
        configs: Content of every config by the name of its file, as :func:`read_configs` gives them.

    Raises:
        ConfigError: Naming the file and the keys that have no words, words twice, or words without a key.
    """
    described: set[str] = set()
    for name, config in configs.items():
        words = config.get(WORDS, {})
        missing = [key for key in plain_keys(config) if key not in described and key not in words]
        if missing:
            raise ConfigError(f"{name}.json does not describe {', '.join(missing)}; add a text for each to {WORDS}")
        idle = [key for key in words if key not in config or key in described]
        if idle:
            raise ConfigError(f"{name}.json describes {', '.join(idle)}, which it lacks or a file before it describes")
        described |= words.keys()


def knobs_page(bundle: Path) -> str:
    """Returns the page, as Markdown: a table of options, what overlays set, and the parts of each config.

    Raises:
        ConfigError: When an option has no words, see :func:`check_words`.
    """
    configs = read_configs(bundle)
    check_words(configs)
    parts = [INTRODUCTION.format(name=bundle.name)]
    parts.append("| option | default | used by | meaning |\n|---|---|---|---|")
    for name in WORKFLOWS:
        for key, text in configs[name].get(WORDS, {}).items():
            users = [other for other in WORKFLOWS if key in configs[other]]
            used_by = "all" if len(users) == len(WORKFLOWS) else ", ".join(users)
            parts.append(f"| `{key}` | {_default(configs[name][key])} | {used_by} | {text} |")
    for name in configs:
        if name not in WORKFLOWS:
            parts += _overlay(name, configs[name])
    parts += _components({name: configs[name] for name in WORKFLOWS})
    return "\n".join(parts) + "\n"


def write_knobs_pages(bundles: str = "bundles") -> None:
    """Writes ``docs/knobs.md`` of every bundle.

    Args:
        bundles: Folder of the bundles. Default ``bundles``.
    """
    for folder in sorted(path for path in Path(bundles).iterdir() if (path / "configs").is_dir()):
        page = knobs_page(folder)
        with write_atomically(folder / PAGE) as temporary:
            temporary.write_text(page, encoding="utf-8")


def _overlay(name: str, config: Mapping[str, Any]) -> list[str]:
    """The part of the page on one file that is laid over others."""
    words = config.get(WORDS, {})
    lines = [f"\n## With {name}.json\n"]
    if words:
        lines += ["| option | default | meaning |\n|---|---|---|"]
        lines += [f"| `{key}` | {_default(config[key])} | {text} |" for key, text in words.items()]
    others = [f"`{key}` {_default(config[key])}" for key in plain_keys(config) if key not in words]
    if others:
        lines.append(("\n" if words else "") + f"Other defaults: {', '.join(others)}.")
    if not words and not others:
        lines.append("Sets " + ", ".join(f"`{key}`" for key in config) + ".")
    return lines


def _components(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The part of the page on components that carry words, each in the first file that has it."""
    found: dict[str, str] = {}
    for config in configs.values():
        for key, text in _component_words(config, ""):
            found.setdefault(key, text)
    lines = ["\n## Components\n", "| key | what it is |\n|---|---|"] if found else []
    return lines + [f"| `{key}` | {text} |" for key, text in found.items()]


def _component_words(config: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Nested key and text of every component with words; lists are passed over, as their places may change."""
    found = []
    for key, value in config.items():
        if isinstance(value, dict) and key != WORDS:
            text = value.get(WORDS)
            found += [(f"{prefix}{key}", text)] if isinstance(text, str) else []
            found += _component_words(value, f"{prefix}{key}#")
    return found


def _refers(value: Any) -> bool:
    """Whether a value is a component, a reference or an expression, or holds one."""
    if isinstance(value, dict):
        return "_target_" in value or any(_refers(item) for item in value.values())
    if isinstance(value, list):
        return any(_refers(item) for item in value)
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _default(value: Any) -> str:
    """A default as readers see it."""
    if value is None:
        return "none"
    if isinstance(value, str) and value.startswith("$@bundle_root + '"):
        return f"`<bundle_root>{value.split(chr(39))[1]}`"
    if isinstance(value, str) and value.startswith("@"):
        return f"that of `{value[1:]}`"
    if isinstance(value, str) and value.startswith("$"):
        return "see right"
    if isinstance(value, dict) and value:
        return "see the file"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
