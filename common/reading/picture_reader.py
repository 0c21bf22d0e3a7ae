"""Reads pictures by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.data import PILReader
from PIL import Image

from ..errors import ImageError
from .limits import MAX_VOXELS, check_size


class PictureReader(PILReader):
    """MONAI's reader for one picture by Pillow, whose size is checked before it is decoded.

    Args:
        max_voxels: Most pixels that a picture may declare, at least 1; 500 million by default. Pillow itself stops at
            179 million.
    """

    def __init__(self, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Returns the Pillow picture of one file.

        Args:
            data: Path of the file, alone or in a sequence of one.
            **kwargs: Options that are passed on to ``PIL.Image.open``.

        Raises:
            ImageError: When it declares too many pixels. The message goes on after the name of the image.
        """
        names = (data,) if isinstance(data, str | Path) else tuple(data)
        pictures = []
        try:
            for name in names:
                with Image.open(name, **(self.kwargs | kwargs)) as picture:
                    check_size(picture.size, self.max_voxels)
                    # MONAI decodes later, and leaves the file of a damaged picture open.
                    picture.load()
                pictures.append(picture)
        except Image.DecompressionBombError as error:
            raise ImageError("declares more pixels than Pillow accepts; crop it or make it smaller") from error
        return pictures if len(pictures) > 1 else pictures[0]
