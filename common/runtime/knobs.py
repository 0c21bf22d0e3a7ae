"""Writes the page of a bundle's options from its configs and the glossary of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import write_atomically
from .json_format import WIDTH
from .model_settings import with_defaults

WORDS = "_desc_"
"""Key of the sentence that describes a block of a config; MONAI passes over it."""

GLOSSARY = "settings.json"
"""File beside the bundles: setting -> text, or bundle -> text where its meaning differs, the others' under ``all``."""

WORKFLOWS = ("train", "inference", "evaluate")
"""Config files that run alone; a block is described in the first of them that has it."""

PAGE = "docs/knobs.md"
OTHER_FILES = ("metadata", *WORKFLOWS)

INTRODUCTION = """# Options of {name}

Every option of the command line is a top-level key of the configs: `--key value`. An option that does not exist is
refused by name. Nested keys are joined by `#`, as in `--network_def#norm batch`. What training decided about data and
network lies beside the weights, in `model_settings.json`, and is the default of evaluation and inference. In a
checkout, `python -m common knobs` writes this page from the configs.
"""


def read_configs(bundle: Path) -> dict[str, dict[str, Any]]:
    """Returns the config files of a bundle, by name without suffix, those that run alone first.

    What asks for the settings of weights is replaced by the value for weights without any.
    """
    names = sorted(path.stem for path in (bundle / "configs").glob("*.json") if path.stem not in OTHER_FILES)
    files = {name: bundle / "configs" / f"{name}.json" for name in (*WORKFLOWS, *names)}
    found = {name: path for name, path in files.items() if path.is_file()}
    return {name: with_defaults(json.loads(path.read_text(encoding="utf-8"))) for name, path in found.items()}


def plain_keys(config: Mapping[str, Any]) -> list[str]:
    """Returns the top-level keys that hold settings alone: neither components nor references nor expressions.

    Example:
        >>> plain_keys({"seed": 0, "network_def": {"_target_": "UNet"}, "run": ["$@trainer.run()"], "a#b": 1})
        ['seed']
    """
    return [key for key, value in config.items() if key != WORDS and "#" not in key and not _refers(value)]


def read_glossary(bundle: Path) -> dict[str, str]:
    """Returns the texts of all settings as they hold for a bundle, from the file beside the bundles.

    Args:
        bundle: Folder of the bundle.
    """
    texts = json.loads((bundle.parent / GLOSSARY).read_text(encoding="utf-8"))
    own = {
        key: text if isinstance(text, str) else text.get(bundle.name, text.get("all")) for key, text in texts.items()
    }
    return {key: text for key, text in own.items() if text is not None}


def undescribed_blocks(config: Mapping[str, Any]) -> list[str]:
    """Returns the top-level blocks that take more than one line and hold no sentence on what they do.

    Example:
        >>> block = {"data": "@dataset_dir", "text": "x" * 120}
        >>> undescribed_blocks({"amp": {"device": "@device"}, "train": block, "loss": block | {"_desc_": "The loss."}})
        ['train']
    """
    blocks = {key: value for key, value in config.items() if isinstance(value, dict) and _refers(value)}
    long = {key: value for key, value in blocks.items() if len(json.dumps({key: value})) > WIDTH}
    return [key for key, value in long.items() if not isinstance(value.get(WORDS), str)]


def check_words(configs: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]) -> None:
    """Makes sure that every setting has a text, and every block a sentence in the first config that has it.

    Args:
        configs: Name of the file -> content, as :func:`read_configs` gives them.
        texts: Setting -> text, as :func:`read_glossary` gives them.

    Raises:
        ConfigError: naming the file, and the settings or blocks without words.
    """
    blocks: set[str] = set()
    for name, config in configs.items():
        missing = [key for key in plain_keys(config) if key not in texts]
        if missing:
            raise ConfigError(f"{name}.json has {', '.join(missing)}; add a text for each to bundles/{GLOSSARY}")
        silent = [key for key in undescribed_blocks(config) if key not in blocks]
        if silent and name in WORKFLOWS:
            raise ConfigError(f"{name}.json does not say what {', '.join(silent)} does; add {WORDS} to each")
        blocks |= config.keys()


def knobs_page(bundle: Path) -> str:
    """Returns the page, as Markdown: a table of options, what overlays set, and the blocks of each config.

    Raises:
        ConfigError: when a setting or block has no words, see :func:`check_words`.
    """
    configs, texts = read_configs(bundle), read_glossary(bundle)
    check_words(configs, texts)
    parts = [INTRODUCTION.format(name=bundle.name)]
    parts.append("| option | default | used by | meaning |\n|---|---|---|---|")
    settings = {key: value for name in reversed(WORKFLOWS) for key, value in configs[name].items() if key in texts}
    for key in dict.fromkeys(key for name in WORKFLOWS for key in configs[name] if key in texts):
        users = [other for other in WORKFLOWS if key in configs[other]]
        used_by = "all" if len(users) == len(WORKFLOWS) else ", ".join(users)
        parts.append(f"| `{key}` | {_default(settings[key])} | {used_by} | {texts[key]} |")
    for name in configs:
        if name not in WORKFLOWS:
            own = {key: text for key, text in texts.items() if key in configs[name] and key not in settings}
            parts += _overlay(name, configs[name], own)
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


def _overlay(name: str, config: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    """The part of the page on one file that is laid over others."""
    lines = [f"\n## With {name}.json\n"]
    if words:
        lines += ["| option | default | meaning |\n|---|---|---|"]
        lines += [f"| `{key}` | {_default(config[key])} | {text} |" for key, text in words.items()]
    others = [f"`{key}` {_default(config[key])}" for key in plain_keys(config) if key not in words]
    if others:
        lines.append(("\n" if words else "") + f"Other defaults: {', '.join(others)}.")
    if not words and not others:
        lines.append("Sets " + ", ".join(f"`{key}`" for key in config if key != WORDS) + ".")
    return lines


def _components(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The part of the page on blocks that carry words, each in the first file that has it."""
    found: dict[str, str] = {}
    for config in configs.values():
        for key, text in _component_words(config, ""):
            found.setdefault(key, text)
    lines = ["\n## Blocks\n", "| key | what it does |\n|---|---|"] if found else []
    return lines + [f"| `{key}` | {text} |" for key, text in found.items()]


def _component_words(config: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Nested key and text of every block with words; lists are passed over, as their places may change."""
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
