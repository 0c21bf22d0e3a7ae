"""Reads by ITK what neither nibabel nor pydicom reads, with the checks that ITK lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ITKReader
from monai.utils import optional_import
from numpy.typing import NDArray

from ..errors import ImageError
from .file_reader import FileReader
from .limits import check_affine, check_size, damaged
from .payload import check_payload

itk, _ = optional_import("itk", allow_namespace_pkg=True)

FLAT_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
"""Kinds of pictures: their spacing is that of paper or of a microscope, and no result depends on it."""


class CheckedITKReader(FileReader, ITKReader):
    """MONAI's reader by ITK for one file, whose header is checked before any voxel is read."""

    def read_file(self, path: str | Path, **kwargs: Any) -> Any:
        """Returns the ITK image of a file.

        Args:
            path: Path of the file.
            **kwargs: Options that are passed on to ``itk.imread``.

        Raises:
            ImageError: When the file is damaged, holds complex numbers, declares too many voxels, or its geometry is
                not valid. The message goes on after the name of the image.
        """
        # ITK calls whatever it cannot open missing.
        with open(path, "rb"):
            pass
        try:
            self._check(str(path))
            return itk.imread(str(path), **kwargs)
        except RuntimeError as error:
            # ITK's own text fills several lines with the places of its source.
            raise damaged("ITK finds no image in it") from error

    def _check(self, path: str) -> None:
        """Raises when the header of a file is not that of an image to read."""
        header = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
        if header is None:
            raise damaged("it is of no format that ITK knows")
        header.SetFileName(path)
        header.ReadImageInformation()
        axes = range(header.GetNumberOfDimensions())
        shape = [header.GetDimensions(axis) for axis in axes]
        numbers = header.GetNumberOfComponents()
        check_size([*shape, numbers] if numbers > 1 else shape, self.max_voxels)
        if header.GetPixelTypeAsString(header.GetPixelType()) == "complex":
            raise ImageError("holds complex numbers; save the magnitude, or whatever part the network was trained on")
        if not path.lower().endswith(FLAT_SUFFIXES):
            check_affine(_affine(header))
        check_payload(path, int(np.prod(shape, dtype=object)) * numbers * header.GetComponentSize())


def _affine(header: Any) -> NDArray[np.float64]:
    """The affine of the first three axes of an image whose header ITK has read."""
    rank = min(header.GetNumberOfDimensions(), 3)
    affine = np.eye(rank + 1)
    for axis in range(rank):
        affine[:rank, axis] = np.array(header.GetDirection(axis)[:rank]) * header.GetSpacing(axis)
        affine[axis, rank] = header.GetOrigin(axis)
    return affine
