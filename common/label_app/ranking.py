"""Tells which image to label next, from the scores that MONAI Label's datastore keeps for every image.

Plain Python, so that it is tested without MONAI Label. ``main.py`` imports it as ``ranking``: MONAI Label puts the
folder of an app, wherever it was copied, on Python's path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

VERDICT = ("oodm", "threshold", "is_ood", "reason", "p_value", "expected_dice", "expected_dice_low", "reasons")
"""What a bundle says about an image; without a valid verdict all but the reason are ``None``."""


CHANGED = "the scan, or the model, changed while it was being judged; the next scoring judges it again"
"""The reason when nobody can say which files a verdict came from."""


def verdict_stamp(files: Iterable[str | Path], image: str | Path) -> str:
    """Returns a digest of what decides over the verdict on an image; whatever is missing counts as missing.

    Args:
        files: Files of the bundle, which count by content: one unpacked from an archive may bring the times of the one
            it replaces.
        image: File, or folder of the files of one series. Names, sizes and times count: scans are too large to be read
            for every proposal.
    """
    digest = hashlib.sha256()
    for path in map(Path, files):
        digest.update(f"{path.name} {_content(path)}\n".encode())
    image = Path(image)
    for path in sorted(image.rglob("*")) if image.is_dir() else [image]:
        digest.update(f"{path.relative_to(image.parent)} {_state(path)}\n".encode())
    return digest.hexdigest()


def judge_settled(model: str, judge: Callable[[], Mapping[str, Any]], stamp: Callable[[], str]) -> dict[str, Any]:
    """Returns the record of a verdict; it is no score if a file was replaced meanwhile, as training does.

    Args:
        model: Name of the model.
        judge: Function that returns the verdict.
        stamp: Function that returns the stamp of the files as they are when it is called.
    """
    before = stamp()
    verdict = judge()
    return score_record(model, verdict, before) if stamp() == before else score_record(model, {"reason": CHANGED}, "")


def score_record(model: str, verdict: Mapping[str, Any], stamp: str) -> dict[str, Any]:
    """Returns what the datastore keeps with an image about one model's verdict.

    Args:
        model: Name of the model.
        verdict: Verdict by the names of :data:`VERDICT`; what is missing counts as ``None``.
        stamp: Stamp of the files that gave the verdict; empty when there was none, so that it is tried again.
    """
    record = {f"{name}_{model}": verdict.get(name) for name in VERDICT}
    return record | {f"stamp_{model}": stamp}


def is_fresh(info: Mapping[str, Any], model: str, stamp: str) -> bool:
    """Returns whether an image's score came from the very files of ``stamp``."""
    return info.get(f"stamp_{model}") == stamp


def rank_images(infos: Mapping[str, Mapping[str, Any]], model: str, stamps: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the images, the most out-of-distribution first; those without a fresh score last, by name.

    Args:
        infos: Record of every image in the datastore, by the image's name.
        model: Name of the model whose scores count.
        stamps: Stamp of every image's and the model's files now, by the image's name; a score of other files is none.

    Returns:
        One dictionary of ``id``, ``oodm`` (higher means more abnormal) and ``is_ood`` for each image.
    """
    ranking = []
    for image, info in infos.items():
        known: Mapping[str, Any] = info if is_fresh(info, model, stamps[image]) else {}
        ranking.append({"id": image, "oodm": known.get(f"oodm_{model}"), "is_ood": known.get(f"is_ood_{model}")})
    return sorted(ranking, key=_abnormal_first)


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes with a file; its change of status too, since a copy may keep the time of what it was copied from."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _content(path: Path) -> str:
    """The digest of a file's content."""
    state = _state(path)
    try:
        return "missing" if state is None else _content_in_state(path, state)
    except OSError:
        return "missing"


@lru_cache(maxsize=256)
def _content_in_state(path: Path, state: tuple[int, ...]) -> str:
    """The digest of a file's content, read once for every ``state``."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _abnormal_first(entry: Mapping[str, Any]) -> tuple[bool, float, str]:
    oodm = entry["oodm"]
    return (oodm is None, 0.0 if oodm is None else -float(oodm), str(entry["id"]))
