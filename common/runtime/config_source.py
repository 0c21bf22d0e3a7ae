"""Finds what the components of a config were made from, which MONAI's parser does not hand to them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from monai.bundle.config_item import ConfigItem
from monai.bundle.reference_resolver import ReferenceResolver

SEPARATOR = ReferenceResolver.sep


def items_being_resolved(config: Mapping[str, Any] | None) -> Mapping[str, ConfigItem]:
    """Returns the items of the config that is being resolved by the caller's callers, by their ids.

    The expression ``$__local_refs`` gives what became of the items; arguments of a component are not among that. So the
    resolver itself is looked for in the calls that led here.

    Args:
        config: What the config parser has made of every id so far, which tells the resolver from any other.
    """
    frame = sys._getframe(1) if config is not None else None
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ReferenceResolver) and caller.resolved_content is config:
            return caller.items
        frame = frame.f_back
    return {}


def component_source(items: Mapping[str, ConfigItem], key: str) -> dict[str, Any] | None:
    """Returns name and arguments of a component that has been made, with those of components among its arguments.

    Args:
        items: Items of the config by their ids, see :func:`items_being_resolved`.
        key: Id of the component.

    Returns:
        The arguments by name and the component's own name under ``_target_``; ``None`` where there is none.
    """
    content = items[key].get_config() if key in items else None
    if not isinstance(content, Mapping) or "_target_" not in content:
        return None
    parts = {name: component_source(items, f"{key}{SEPARATOR}{name}") for name in content}
    return {name: parts[name] or value for name, value in content.items() if name != "_desc_"}
