"""Tells what kind of image a case holds, which decides how its intensities are normalized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Modality = Literal["CT", "MR", "RGB"]
DICOM_MODALITY_KEYS = ("modality", "00080060", "0008|0060")
"""Where the readers of this package, of pydicom and of ITK leave the DICOM tag (0008,0060)."""


def modality_of(data: Mapping[Any, Any], image: Any, modality: str) -> str:
    """Returns the modality of a case: its own, from ``dataset.json``, else that of the DICOM tag, else the given one.

    Args:
        data: Case of the image.
        image: Image, perhaps with metadata.
        modality: ``CT``, ``MR`` or ``RGB``, for an image that does not tell.
    """
    accepted = get_args(Modality)
    if data.get("modality") in accepted:
        return str(data["modality"])
    meta = getattr(image, "meta", {})
    tags = [str(meta[key]).strip() for key in DICOM_MODALITY_KEYS if key in meta]
    return next((tag for tag in tags if tag in accepted), modality)
