"""Which image to label next, told from the scores that MONAI Label's datastore keeps for every image.

Plain Python, so that it is tested without MONAI Label. ``main.py`` imports it as ``ranking``: MONAI Label puts the
folder of an app, wherever it was copied, on Python's path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERDICT = ("oodm", "threshold", "is_ood", "reason")
"""What a bundle says about an image; without a valid verdict the first three are ``None`` and the reason is given."""


def files_stamp(files: Iterable[str | Path]) -> str:
    """Returns a digest of the contents of files; one that is missing counts as missing.

    Contents, not times: a bundle that is unpacked from an archive may bring the times of the one it replaces.
    """
    digest = hashlib.sha256()
    for path in map(Path, files):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def score_record(model: str, verdict: Mapping[str, Any], stamp: str) -> dict[str, Any]:
    """Returns what the datastore keeps with an image about one model's verdict.

    Args:
        model: name of the model.
        verdict: holds ``oodm``, ``threshold``, ``is_ood`` and ``reason``; what is missing counts as ``None``.
        stamp: of the files that gave the verdict; empty when there was none, so that it is tried again.
    """
    record = {f"{name}_{model}": verdict.get(name) for name in VERDICT}
    return record | {f"stamp_{model}": stamp}


def is_fresh(info: Mapping[str, Any], model: str, stamp: str) -> bool:
    """Returns whether an image's score came from the very files of ``stamp``."""
    return info.get(f"stamp_{model}") == stamp


def rank_images(infos: Mapping[str, Mapping[str, Any]], model: str, stamp: str) -> list[dict[str, Any]]:
    """Returns the images, the most out-of-distribution first; those without a fresh score last, by name.

    Args:
        infos: name of the image -> what the datastore keeps with it.
        model: name of the model whose scores count.
        stamp: of the model's files now; a score of other files is none.

    Returns:
        One dictionary of ``id``, ``oodm`` (higher means more abnormal) and ``is_ood`` for each image.
    """
    ranking = []
    for image, info in infos.items():
        known: Mapping[str, Any] = info if is_fresh(info, model, stamp) else {}
        ranking.append({"id": image, "oodm": known.get(f"oodm_{model}"), "is_ood": known.get(f"is_ood_{model}")})
    return sorted(ranking, key=_abnormal_first)


def _abnormal_first(entry: Mapping[str, Any]) -> tuple[bool, float, str]:
    oodm = entry["oodm"]
    return (oodm is None, 0.0 if oodm is None else -float(oodm), str(entry["id"]))
