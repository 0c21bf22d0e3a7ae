"""Lists endoscopic frames in the layout of CholecSeg8k: a folder for each video, in it one for each clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingDataError
from .names import safe_name

FRAME, MASK = "_endo.png", "_endo_watershed_mask.png"
"""Endings of a frame and of the mask beside it."""

CODES = (50, 11, 21, 13, 12, 31, 23, 24, 25, 32, 22, 33, 5)
"""Gray value of each class in a watershed mask; other values (outlines of 255, gaps of 0) count as background.

Hong et al., *CholecSeg8k* (arXiv:2012.12453) numbers the classes 0 black background, 1 abdominal wall, 2 liver, 3
gastrointestinal tract, 4 fat, 5 grasper, 6 connective tissue, 7 blood, 8 cystic duct, 9 L-hook electrocautery, 10
gallbladder, 11 hepatic vein, 12 liver ligament.
"""


def _frames(root: Path) -> Iterator[Path]:
    """Every frame of a tree of videos and clips, or of videos alone."""
    for pattern in (f"*/*/frame_*{FRAME}", f"*/frame_*{FRAME}"):
        yield from root.glob(pattern)


def is_endoscopy(folder: str | Path) -> bool:
    """Returns whether a folder without ``dataset.json`` holds videos as folders of frames."""
    root = Path(folder)
    return not (root / "dataset.json").is_file() and next(_frames(root), None) is not None


def endoscopy_cases(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the frames of all videos, in order, each with its mask where there is one; a video is a ``patient``.

    Args:
        folder: Folder of ``<video>/<clip>/frame_<number>_endo.png`` and ``frame_<number>_endo_watershed_mask.png``, as
            CholecSeg8k is published. The folder of the clip may be left out.

    Raises:
        MissingDataError: When there is no frame.
    """
    root = Path(folder)
    frames = sorted(_frames(root))
    if not frames:
        raise MissingDataError(f"dataset_dir {root} holds no frame <video>/<clip>/frame_<number>{FRAME}")
    return [_describe(path, root) for path in frames]


def _describe(path: Path, root: Path) -> dict[str, Any]:
    """A case from a frame."""
    video, *clip = path.relative_to(root).parts[:-1]
    stem = path.name.removesuffix(FRAME)
    case: dict[str, Any] = {
        "image": str(path),
        "case": safe_name(f"{clip[0] if clip else video}_{stem}"),
        "patient": video,
    }
    case |= {"task": safe_name(root.resolve().name), "modality": "RGB"}
    mask = path.with_name(f"{stem}{MASK}")
    return (
        case | {"label": str(mask), "codes": list(CODES), "classes": list(range(len(CODES)))}
        if mask.is_file()
        else case
    )
