"""Tells which reader reads what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.data import ImageReader

from ..dicom.series import DicomSeriesReader
from ..reading import MAX_VOXELS, CheckedITKReader, MghReader, NiftiReader, PictureReader

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")

PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Pictures that Pillow reads, as in MONAI; ITK reads TIFF."""


def is_series(source: Any) -> bool:
    """Returns whether an image's source is a DICOM series: a folder or a list of files."""
    return isinstance(source, list | tuple) or (isinstance(source, str | Path) and os.path.isdir(source))


def choose_reader(source: Any, max_voxels: int = MAX_VOXELS) -> ImageReader:
    """Returns a new reader for an image, by the kind of its source and by its suffix.

    MONAI 1.6.1 would take a picture for what has ``.png`` anywhere in its name, and nibabel for ``.nii`` alone.

    Args:
        source: Path of a file, or the folder or list of files of a DICOM series.
        max_voxels: Largest number of voxels that an image may declare. Default 500 million.
    """
    if is_series(source):
        return DicomSeriesReader(max_voxels)
    name = str(source).lower()
    if name.endswith(NIFTI_SUFFIXES):
        return NiftiReader(max_voxels)
    if name.endswith(".mgz"):
        return MghReader(max_voxels)
    return PictureReader(max_voxels) if name.endswith(PILLOW_SUFFIXES) else CheckedITKReader(max_voxels)
