"""One DICOM series: its slices checked, ordered by their positions, and read without any attribute of the patient."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.data import PydicomReader
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.misc import is_dicom
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ..errors import DicomError

POSITION_TOLERANCE = 0.05
"""Farthest that a slice may lie from its place in a stack of equal gaps, as a share of the gap.

A missing slice moves others by a quarter of the gap or more; positions written with two decimals move by less.
"""

SHEAR_TOLERANCE = 0.01
"""Largest shift of a slice against the one before it, within their plane, as a share of the gap: 0.6 degrees."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between direction cosines of slices of one series."""

UNIT_TOLERANCE = 1e-2
"""How far the two directions of a slice may be from perpendicular unit vectors; some are written with two decimals."""

UNREADABLE = (
    ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError, MemoryError,
    OSError, RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise on a damaged file."""

UNCOMPRESSED = (
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian,
)  # fmt: skip
"""Transfer syntaxes whose pixels need no decoder."""

SLICE_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "FloatPixelData", "DoubleFloatPixelData", "PixelData",
)  # fmt: skip
"""All that is read of a slice: what geometry, pixels, rescaling and modality need, and nothing of the patient."""

COMMON_TAGS = ("StudyInstanceUID", "Modality", "SOPClassUID", "PhotometricInterpretation")
"""What all slices of a series have in common: a UID that two studies share must not mix their patients."""

PYDICOM = re.compile(r"pydicom(\.|$)")
"""Modules whose warnings are not shown."""


def series_name(uid: str) -> str:
    """Returns a short name for a series that tells nothing about it but tells it from others.

    Args:
        uid: its SeriesInstanceUID.
    """
    return f"series_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def uid_name(uid: str, unknown: str) -> str:
    """Returns what DICOM calls a UID, which is never the text itself: where a tag holds no UID, anything may stand.

    Args:
        uid: value of a tag.
        unknown: what is returned for a UID that the standard does not define.
    """
    quiet_pydicom()
    name = str(UID(uid).name)
    return unknown if name == uid else name


def quiet_pydicom() -> None:
    """Keeps what pydicom remarks out of the log: it quotes values and paths, either of which may name a patient.

    It stays quiet for the rest of the process: ``warnings.catch_warnings`` is not safe among threads. To be called
    before every use and not once, since whoever sets filters of their own, as pytest does, puts them in front.
    """
    # The level, unlike a filter, also holds for the loggers below.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    if not warnings.filters or str(warnings.filters[0][3]) != str(PYDICOM):
        warnings.filterwarnings("ignore", module=PYDICOM.pattern)


def read_slice(file: str | Path, **kwargs: Any) -> Any:
    """Returns the pydicom data set of one file, reduced to ``SLICE_TAGS``; its pixels are not decoded yet.

    Args:
        file: its path.
        **kwargs: for ``pydicom.dcmread``.
    """
    quiet_pydicom()
    slice_ = pydicom.dcmread(file, **(kwargs | {"specific_tags": list(SLICE_TAGS)}))
    # pydicom converts a value when it is asked for; one that is invalid shall be found here.
    list(slice_)
    return slice_


def order_slices(slices: Sequence[Any], where: str) -> list[Any]:
    """Returns the slices of one series in the order of their positions, after checking that they make a volume.

    Neither of MONAI's DICOM readers does: they interleave two series and average over a missing slice in silence.

    Args:
        slices: pydicom data sets.
        where: what a message calls the series.

    Raises:
        DicomError: when slices are of several studies, series, kinds, frames of reference, orientations or sizes, lie
            at the same position or aside of the others, or one is missing.
    """
    _check_identity(slices, where)
    orientations = _numbers(slices, "ImageOrientationPatient", 6, where)
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise DicomError(f"{where}: slices of different orientation; export each orientation as a series of its own")
    axes = orientations[0].reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > UNIT_TOLERANCE:
        raise DicomError(f"{where}: ImageOrientationPatient is no pair of perpendicular unit vectors; export it again")
    sizes = [_numbers(slices, name, count, where) for name, count in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2))]
    if any((size != size[0]).any() for size in sizes):
        raise DicomError(f"{where}: slices of different size or pixel spacing; all slices of a series must agree")
    if min(size.min() for size in sizes) <= 0:
        raise DicomError(f"{where}: Rows, Columns or PixelSpacing is 0 or negative; export the series again")
    positions = _numbers(slices, "ImagePositionPatient", 3, where)
    normal = np.cross(*axes)
    order = np.argsort(positions @ normal, kind="stable")
    if len(slices) > 1:
        _check_stack(positions[order], normal / np.linalg.norm(normal), where)
    return [slices[i] for i in order]


def _check_identity(slices: Sequence[Any], where: str) -> None:
    """Raises when slices are of several series, studies, kinds or frames of reference, or two share their own UID."""
    number = len(slices)
    series = Counter(str(slice_.get("SeriesInstanceUID") or "") for slice_ in slices)
    if 0 < series[""] < number:
        raise DicomError(
            f"{where}: {series['']} of {number} files have no SeriesInstanceUID, so they may be truncated slices of "
            "it: export the series again"
        )
    if len(+series) > 1:
        raise DicomError(
            f"{where}: {number} slices of {len(+series)} DICOM series; give each series a folder of its own"
        )
    differing = [name for name in COMMON_TAGS if len({str(slice_.get(name) or "") for slice_ in slices}) > 1]
    if differing:
        raise DicomError(
            f"{where}: slices of different {', '.join(differing)}; slices of a series have these in common: export "
            "each study, and each kind of image, as a series of its own"
        )
    if len({str(slice_.get("FrameOfReferenceUID", "")) for slice_ in slices}) > 1:
        raise DicomError(f"{where}: slices of different FrameOfReferenceUID; their positions cannot be compared")
    instances = Counter(str(slice_.get("SOPInstanceUID", "")) for slice_ in slices)
    repeated = [uid for uid, count in instances.items() if uid and count > 1]
    if repeated:
        raise DicomError(
            f"{where}: {instances[repeated[0]]} files of one slice{instance_text(repeated[0])}; remove copies, or "
            "export the series again if they differ"
        )


def instance_text(uid: str) -> str:
    """Returns how a message names a slice; a UID that is none is not repeated, as anything may stand there."""
    return f" with SOPInstanceUID {uid}" if re.fullmatch(r"[0-9.]{1,64}", uid) else ""


def _numbers(slices: Sequence[Any], name: str, count: int, where: str) -> NDArray[np.float64]:
    """The values of a tag as ``(slices, count)``; raises when a slice has not that many finite ones."""
    rows = []
    for slice_ in slices:
        try:
            row = np.array(slice_.get(name), dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            row = np.empty(0)
        rows.append(row if row.size == count and np.isfinite(row).all() else None)
    bad = sum(row is None for row in rows)
    if bad:
        raise DicomError(
            f"{where}: {bad} of {len(rows)} slices have no valid {name}; only image series with positions are accepted"
        )
    return np.stack(rows)  # type: ignore[arg-type]


def _check_stack(positions: NDArray[np.float64], normal: NDArray[np.float64], where: str) -> None:
    """Raises when ordered positions ``(slices, 3)`` are not equally spaced along the normal."""
    number = len(positions)
    gaps = np.diff(positions @ normal)
    places = 1 + int((gaps > 1e-3 * gaps.max()).sum())
    if places < number:
        reason = "remove the one that does not belong there"
        if number % places == 0:
            reason = "if these are echoes, phases or acquisitions, export each as a series of its own"
        raise DicomError(f"{where}: two slices at the same position ({number} slices at {places} positions); {reason}")
    step = (positions[-1] - positions[0]) / (number - 1)
    gap = float(step @ normal)
    # What is off from the places at which the affine will put the slices.
    off = positions - positions[0] - np.outer(np.arange(number), step)
    if np.abs(off @ normal).max() > POSITION_TOLERANCE * gap:
        raise DicomError(
            f"{where}: gaps between slices from {gaps.min():.3f} to {gaps.max():.3f} mm; a slice is missing or the "
            "spacing varies: send the whole series"
        )
    sheared = np.linalg.norm(step - gap * normal) > SHEAR_TOLERANCE * gap
    if sheared or np.linalg.norm(off, axis=1).max() > POSITION_TOLERANCE * gap:
        aside = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
        raise DicomError(
            f"{where}: slices are shifted against one another within their plane by up to "
            f"{np.linalg.norm(aside, axis=1).max():.3f} mm, as by a tilted gantry; send a series resampled without tilt"
        )


class DicomSeriesReader(PydicomReader):
    """MONAI's pydicom reader for one series, given as its folder or its files, with the checks it lacks."""

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Returns the ordered slices of one series.

        Args:
            data: a folder, in which files that are not DICOM are passed over, or the files of the series.
            **kwargs: for ``pydicom.dcmread``.

        Raises:
            DicomError: when there is no slice, or the slices make no volume. It never names a file or folder, since
                PACS exports name these after patients.
        """
        names = [data] if isinstance(data, str | Path) else list(data)
        files = [str(name) for name in names]
        if Path(names[0]).is_dir():
            files = [str(path) for path in sorted(Path(names[0]).iterdir()) if path.is_file() and is_dicom(path)]
        if not files:
            raise DicomError("DICOM series: the folder holds no DICOM file; expected is one series")
        self.where = "DICOM series"
        slices = [self._read_file(files, index, kwargs) for index in range(len(files))]
        ordered = order_slices(slices, self.where)
        for index, slice_ in enumerate(ordered):
            self._decode(slice_, f"slice {index + 1} of {len(ordered)}")
            # MONAI's reader stacks by InstanceNumber, which need not follow the positions.
            slice_.InstanceNumber = index + 1
        self.has_series = len(ordered) > 1
        self.series_files = [str(slice_.filename) for slice_ in ordered]
        self.filenames = [self.series_files] if self.has_series else self.series_files
        self.modality = str(ordered[0].get("Modality", ""))
        return ordered if self.has_series else ordered[0]

    def get_data(self, data: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Returns the volume and its metadata.

        The metadata holds, beside MONAI's: ``modality``, which MONAI drops; ``series_name``, for messages; and
        ``series_files``, the JSON list of the files in the order of the last axis (text, since MONAI would collate a
        list item by item).

        Raises:
            DicomError: when values of the header do not allow to compute the volume.
        """
        try:
            quiet_pydicom()
            array, meta = super().get_data(data)
        except UNREADABLE as error:
            # Without the cause, whose text may name a file.
            raise DicomError(
                f"{self.where}: pixels cannot be rescaled or stacked ({type(error).__name__}); export the series again"
            ) from None
        described = {"modality": self.modality, "series_name": self.where}
        return array, meta | described | {"series_files": json.dumps(self.series_files)}

    def _read_file(self, files: Sequence[str], index: int, kwargs: dict[str, Any]) -> Any:
        """One file of the series, after which the series is known by name."""
        try:
            slice_ = read_slice(files[index], **kwargs)
            # A truncated file may have lost it, and must not change the name that the others gave.
            if uid := str(slice_.get("SeriesInstanceUID") or ""):
                self.where = series_name(uid)
        except UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise DicomError(
                f"{self.where}: file {index + 1} of {len(files)} is no readable DICOM image ({reason}); export the "
                "series again"
            ) from None
        return slice_

    def _decode(self, slice_: Any, which: str) -> None:
        """Decodes the pixels, which pydicom otherwise does as late as possible; it keeps them."""
        try:
            quiet_pydicom()
            _ = slice_.pixel_array
        except UNREADABLE as error:
            syntax = slice_.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)
            named = f"{self.where}: {which}{instance_text(str(slice_.get('SOPInstanceUID', '')))}"
            if syntax not in UNCOMPRESSED and "PixelData" in slice_:
                raise DicomError(
                    f"{named} is compressed ({uid_name(syntax, 'unknown')}) and cannot be decoded; install the "
                    "decoders with 'python -m pip install \"pylibjpeg[all]\"' or export the series uncompressed"
                ) from None
            raise DicomError(
                f"{named} has no readable pixels ({type(error).__name__}); it may be truncated: export the series again"
            ) from None
