"""DICOM series: found by their UID, checked for completeness, read in the order of their positions."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data import PydicomReader
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom

from ..errors import DicomError

POSITION_TOLERANCE = 0.01
"""Largest difference between gaps of neighboring slices, as a share of the median gap."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between direction cosines of slices of one series."""


def find_series(folder: str | Path) -> dict[str, list[str]]:
    """Returns the DICOM image series of a folder: SeriesInstanceUID -> files, sorted; sub-folders are not searched.

    What is DICOM but no image (a DICOMDIR, a report, a plan) is left out.
    """
    series: dict[str, list[str]] = defaultdict(list)
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and is_dicom(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Rows"])
            if "SeriesInstanceUID" in header and "Rows" in header:
                series[str(header.SeriesInstanceUID)].append(str(path))
    return dict(series)


def series_name(uid: str) -> str:
    """Returns a short name for a series that tells nothing about it but tells it from others."""
    return f"series_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def order_slices(slices: Sequence[Any], where: str) -> list[Any]:
    """Returns the slices of one series in the order of their positions, after checking that they make a volume.

    Neither of MONAI's DICOM readers does: they interleave two series and average over a missing slice in silence.

    Args:
        slices: pydicom data sets.
        where: what a message calls the series.

    Raises:
        DicomError: when slices are of several series, orientations or sizes, lie at the same position, or one is
            missing.
    """
    number = len(slices)
    uids = {str(slice_.get("SeriesInstanceUID", "")) for slice_ in slices}
    if len(uids) > 1:
        raise DicomError(f"{where}: {number} slices of {len(uids)} DICOM series; give each series a folder of its own")
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    for name in needed:
        if any(slice_.get(name) is None for slice_ in slices):
            raise DicomError(f"{where}: a slice has no {name}; only image series with positions are accepted")
    orientations = np.array([slice_.ImageOrientationPatient for slice_ in slices], dtype=float)
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise DicomError(f"{where}: slices of different orientation; give each orientation a folder of its own")
    sizes = {(slice_.Rows, slice_.Columns, *map(float, slice_.PixelSpacing)) for slice_ in slices}
    if len(sizes) > 1:
        raise DicomError(f"{where}: slices of different size or pixel spacing; all slices of a series must agree")
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    positions = np.array([slice_.ImagePositionPatient for slice_ in slices], dtype=float) @ normal
    order = np.argsort(positions)
    gaps = np.diff(positions[order])
    if number > 1:
        _check_gaps(gaps, where)
    return [slices[i] for i in order]


def _check_gaps(gaps: np.ndarray[Any, Any], where: str) -> None:
    """Raises when two slices lie at one position or a slice is missing."""
    median = float(np.median(gaps))
    if gaps.min() <= 1e-3 * max(median, 1e-3):
        raise DicomError(f"{where}: two slices at the same position; remove the duplicate")
    if gaps.max() - gaps.min() > POSITION_TOLERANCE * median:
        raise DicomError(
            f"{where}: gaps between slices from {gaps.min():.3f} to {gaps.max():.3f} mm; a slice is missing or the "
            "spacing varies: send the whole series"
        )


class DicomSeriesReader(PydicomReader):
    """MONAI's pydicom reader for one series, given as its folder or its files, with the checks it lacks."""

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Returns the ordered slices of one series.

        Args:
            data: a folder, or the files of the series.
            **kwargs: for ``pydicom.dcmread``.

        Raises:
            DicomError: when there is no slice, or the slices make no volume.
        """
        names = [data] if isinstance(data, str | Path) else list(data)
        where = str(names[0]) if len(names) == 1 else str(Path(names[0]).parent)
        files = sorted(map(str, Path(names[0]).iterdir())) if Path(names[0]).is_dir() else [str(name) for name in names]
        slices = [self._read_slice(file, kwargs) for file in files if Path(file).is_file() and is_dicom(file)]
        if not slices:
            raise DicomError(f"{where}: no DICOM file; expected is one series")
        ordered = order_slices(slices, where)
        for index, slice_ in enumerate(ordered):
            # The reader stacks by InstanceNumber, which need not follow the positions.
            slice_.InstanceNumber = index + 1
        self.has_series = len(ordered) > 1
        self.filenames = [files] if self.has_series else files[:1]
        self.modality = str(ordered[0].get("Modality", ""))
        return ordered if self.has_series else ordered[0]

    def get_data(self, data: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Returns the volume and its metadata, to which the modality is added: MONAI's reader drops that tag."""
        array, meta = super().get_data(data)
        return array, meta | {"modality": self.modality}

    def _read_slice(self, file: str, kwargs: dict[str, Any]) -> Any:
        """One slice with its pixels, which pydicom otherwise reads as late as possible."""
        try:
            slice_ = pydicom.dcmread(file, **kwargs)
            _ = slice_.pixel_array
        except (InvalidDicomError, AttributeError, ValueError, OSError, EOFError) as error:
            raise DicomError(f"{file}: no readable DICOM image ({error}); send the file again") from error
        return slice_
