"""Makes the small picture of a scan that the page shows."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..figures.style import OUTLINES, rgb
from .planes import Plane, cut_planes

LARGEST, PAGE_BUDGET = 30_000, 18_000_000
"""Characters of one thumbnail, and of those of a page together."""

HEAD = "data:image/jpeg;base64,"
GAP = 4
PALETTE = np.asarray([rgb(color) for color in OUTLINES], dtype=np.uint8)


def thumbnail_limit(number: int) -> int:
    """Returns how many characters a thumbnail may have, so that the page stays small.

    Args:
        number: Number of scans on the page, 0 or more.
    """
    return min(LARGEST, PAGE_BUDGET // max(number, 1))


def thumbnail(image: Tensor, segmentation: Tensor | None, *, limit: int = LARGEST) -> str:
    """Returns a scan with the outlines of its classes, three planes side by side, as an address that holds the picture.

    Args:
        image: Image ``(C, H, W[, D])``, see :func:`~.planes.cut_planes`.
        segmentation: Class indices, ``(1, H, W[, D])`` or without the first axis; ``None`` where there are none.
        limit: Number of characters that the address may have. Default 30000.

    Returns:
        A ``data:`` address of a JPEG; empty where no picture is small enough.
    """
    drawn = [_outlined(plane) for plane in cut_planes(image, segmentation)]
    height = max(picture.shape[0] for picture in drawn)
    padded = [
        np.pad(picture, (((height - len(picture)) // 2, (height - len(picture) + 1) // 2), (0, GAP), (0, 0)))
        for picture in drawn
    ]
    return _encode(Image.fromarray(np.concatenate(padded, axis=1)[:, :-GAP]), limit)


def _outlined(plane: Plane) -> NDArray[np.uint8]:
    """A picture with a line of two pixels inside every class, in the color of the class."""
    picture, classes = plane[0].copy(), plane[1]
    edge = np.zeros(classes.shape, dtype=bool)
    for step in (1, 2):
        down, across = classes[step:] != classes[:-step], classes[:, step:] != classes[:, :-step]
        for changed, side in ((edge[step:], down), (edge[:-step], down)):
            changed |= side
        for changed, side in ((edge[:, step:], across), (edge[:, :-step], across)):
            changed |= side
    edge &= classes > 0
    picture[edge] = PALETTE[(classes[edge] - 1) % len(PALETTE)]
    return picture


def _encode(picture: Image.Image, limit: int) -> str:
    """The best JPEG that is small enough: first coarser, then smaller."""
    while min(picture.size) >= 8:
        for quality in (80, 55, 30):
            file = io.BytesIO()
            # Without a thinner grid of colors, outlines stay sharp.
            picture.save(file, "JPEG", quality=quality, subsampling=0)
            text = HEAD + base64.b64encode(file.getvalue()).decode()
            if len(text) <= limit:
                return text
        picture = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    return ""
