"""Measures the intensities of a whole patient, once for all slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BundleError
from ..runtime.files import fingerprint
from .deciles import landmarks
from .scan import LoadScand


def landmarks_of(data: Mapping[Hashable, Any], image: Tensor, shares: Sequence[float]) -> Tensor:
    """Returns the landmarks of the patient that a slice shows, or of the image where no other is known.

    Volumes, and images that come without a listing (alone in a folder, or from a server), stand for themselves.

    Args:
        data: Case of the image; ``patient_images`` lists all images of its patient: files, or the files of a series.
        image: Image ``(C, H, W[, D])``.
        shares: Shares of the foreground below the landmarks, in [0, 1], rising.

    Returns:
        ``(C, L)``, see :func:`landmarks`.
    """
    listed = data.get("patient_images", ()) if image.ndim == 3 else ()
    files = tuple(file if isinstance(file, str) else tuple(map(str, file)) for file in listed)
    own = torch.as_tensor(image).as_subclass(Tensor)
    pooled = _pooled(files, tuple(map(fingerprint, files)), len(image), tuple(shares)) if files else None
    return landmarks(own, shares) if pooled is None else pooled.to(own)


def patient_landmarks(images: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Returns the landmarks of several images as if they were one; their order and their sizes do not matter.

    Args:
        images: Images ``(C, H, W[, D])`` with the same number of channels; at least one.
        shares: Shares of the foreground below the landmarks, in [0, 1], rising.

    Returns:
        ``(C, L)``, see :func:`landmarks`.
    """
    return landmarks(torch.cat([image.flatten(1) for image in images], dim=1), shares)


@lru_cache(maxsize=4096)
def _pooled(
    files: tuple[str | tuple[str, ...], ...], _state: tuple[str, ...], channels: int, shares: tuple[float, ...]
) -> Tensor | None:
    """The landmarks over files and series, read again where their state has changed; none where none can be read."""
    load, images = LoadScand("image"), []
    for file in files:
        try:
            image = torch.as_tensor(
                load({"image": file if isinstance(file, str) else list(file)})["image"]
            ).as_subclass(Tensor)
        except BundleError:
            # When its own turn comes, its loading says why.
            continue
        if len(image) == channels and bool(image.isfinite().all()):
            images.append(image)
    return patient_landmarks(images, shares) if images else None
