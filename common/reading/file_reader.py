"""Holds what all readers of a single file have in common."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from monai.data import ImageReader

from .limits import MAX_VOXELS


class FileReader(ImageReader):
    """Frame of a reader for one file: it is read with checks here, and MONAI's own reader makes an array of it.

    A subclass names MONAI's reader as its second base, and reads in :meth:`read_file`.

    Args:
        max_voxels: Most voxels that a header may declare, at least 1; 500 million by default.
    """

    def __init__(self, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Returns the image of one file, as the library that reads it represents it.

        Args:
            data: Path of the file, alone or in a sequence of one.
            **kwargs: Options of that library, where it takes any.

        Raises:
            ImageError: When the file cannot be used, see :meth:`read_file`.
        """
        (path,) = (data,) if isinstance(data, str | Path) else tuple(data)
        # MONAI's reader by nibabel asks for them when it makes the array.
        self.filenames = [str(path)]
        return self.read_file(path, **kwargs)

    @abstractmethod
    def read_file(self, path: str | Path, **kwargs: Any) -> Any:
        """Returns the image of a file; messages of its errors go on after the name of the image."""
