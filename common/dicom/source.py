"""Reads the source series as DICOM output needs it: headers to refer to, apart from what they say of the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from ..errors import DicomError

REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""What a reference to a slice is made of."""

IDENTITY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""What highdicom demands of patient and study, and judges: of a name without a caret it warns, quoting the name."""


@dataclass(frozen=True)
class SourceSeries:
    """The headers of a series in the order of its slices, their ``IDENTITY`` emptied, and the first one as it is."""

    headers: Sequence[Dataset]
    original: Dataset

    def identify(self, document: Any) -> None:
        """Gives a document the attributes of patient and study just as they are in the source, in its character set.

        Args:
            document: Document that highdicom made from ``headers``; changed in place.
        """
        if "SpecificCharacterSet" in self.original:
            document.SpecificCharacterSet = self.original.SpecificCharacterSet
        document.copy_patient_and_study_information(self.original)

    def check_geometry(self, shape: Sequence[int], affine: NDArray[np.float64], where: str) -> None:
        """Makes sure that a label map lies on the slices, voxel by voxel.

        Args:
            shape: Shape of the label map: columns, rows, slices.
            affine: Affine ``(4, 4)`` from the voxels of the label map to mm in RAS.
            where: Name of the case in messages.

        Raises:
            DicomError: When its size is another, or a corner lies more than half a voxel off.
        """
        first, last = self.headers[0], self.headers[-1]
        corners = []
        for header in (first, last):
            across, down = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
            row_spacing, column_spacing = map(float, header.PixelSpacing)
            start = np.array(header.ImagePositionPatient, dtype=np.float64)
            end = start + across * column_spacing * (header.Columns - 1) + down * row_spacing * (header.Rows - 1)
            corners += [start, end]
        size = (first.Columns, first.Rows, len(self.headers))
        voxels = [(i, j, k, 1) for k in (0, size[2] - 1) for i, j in ((0, 0), (size[0] - 1, size[1] - 1))]
        # DICOM counts to the left and to the back, the affine to the right and to the front.
        placed = (np.array(voxels) @ affine.T)[:, :3] * [-1, -1, 1]
        half = 0.5 * np.linalg.norm(affine[:3, :3], axis=0).min()
        if tuple(shape) != size or np.linalg.norm(placed - corners, axis=1).max() > half:
            raise DicomError(
                f"{where}: the segmentation does not lie on the slices of the source series (columns, rows and slices "
                f"{tuple(shape)} on {size}); transforms must be inverted before it is saved, or use output_format nifti"
            )


def read_source(files: Sequence[str], where: str) -> SourceSeries:
    """Returns the headers of a series, with what DICOM output needs and they lack.

    Args:
        files: Paths of the series' files in the order of the slices.
        where: Name of the case in messages.

    Raises:
        DicomError: When a header has no UID to refer to.
    """
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    missing = [name for name in REFERENCES if not all(header.get(name) for header in headers)]
    if missing:
        raise DicomError(
            f"{where}: slices of the source series have no {', '.join(missing)}, so no DICOM file can refer to them; "
            "export the series again, or use output_format nifti"
        )
    original = pydicom.dcmread(files[0], stop_before_pixels=True)
    _complete(headers)
    return SourceSeries(headers, original)


def _complete(headers: Sequence[Dataset]) -> None:
    """Empties the identity of headers and gives them the geometry they have in common."""
    first, last = headers[0], headers[-1]
    way = np.array(last.ImagePositionPatient, dtype=np.float64) - np.array(first.ImagePositionPatient, dtype=np.float64)
    gap = DSfloat(float(np.linalg.norm(way)) / max(len(headers) - 1, 1), auto_format=True)
    # Derived from the series, so that every file made from it has the same.
    frame = first.get("FrameOfReferenceUID") or generate_uid(entropy_srcs=[str(first.SeriesInstanceUID)])
    for header in headers:
        for name in IDENTITY:
            setattr(header, name, None)
        header.FrameOfReferenceUID = frame
        # The reader accepts differences in the last digits, highdicom none.
        header.ImageOrientationPatient = first.ImageOrientationPatient
        # Scanners fill this in as they like, even with negative numbers; viewers trust it.
        header.SpacingBetweenSlices = gap
        header.SliceThickness = header.get("SliceThickness") or gap
