"""Reads pictures by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.data import PILReader
from PIL import Image

from ..errors import ImageError
from .file_reader import FileReader
from .limits import check_size


class PictureReader(FileReader, PILReader):
    """MONAI's reader for one picture by Pillow, whose size is checked before it is decoded.

    Pillow itself stops at 179 million pixels, whatever ``max_voxels`` accepts.
    """

    def read_file(self, path: str | Path, **kwargs: Any) -> Any:
        """Returns the Pillow picture of a file.

        Args:
            path: Path of the file.
            **kwargs: Options that are passed on to ``PIL.Image.open``.

        Raises:
            ImageError: When it declares too many pixels. The message goes on after the name of the image.
        """
        try:
            with Image.open(path, **kwargs) as picture:
                check_size(picture.size, self.max_voxels)
                # MONAI decodes later, and leaves the file of a damaged picture open.
                picture.load()
        except Image.DecompressionBombError as error:
            raise ImageError("declares more pixels than Pillow accepts; crop it or make it smaller") from error
        return picture
