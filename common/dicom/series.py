"""Reads one DICOM series: its slices as a volume, without any attribute of the patient."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
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

from ..errors import DicomError, ImageError
from ..reading.limits import MAX_VOXELS, check_affine, check_size
from .stack import UNIT_TOLERANCE, instance_text, order_slices

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
    "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "FloatPixelData", "DoubleFloatPixelData", "PixelData",
)  # fmt: skip
"""All that is kept of a slice: what geometry, pixels, rescaling and modality need, and nothing of the patient."""

PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""What tells patients apart, each on its own. Only digests of the values are kept, and never passed on."""

UNSPECIFIED = ("", "US")
"""Rescale types that name no unit; with one, as Hounsfield units, numbers mean the same however they are shown."""

MAX_INFLATED = 2**28
"""Most bytes to which one deflated file may decompress: a slice of 8192 x 8192 has half as many."""

PYDICOM = re.compile(r"pydicom(\.|$)")
"""Modules whose warnings are not shown."""


def series_name(uid: str) -> str:
    """Returns a short name for a series that tells nothing about it but tells it from others.

    Args:
        uid: SeriesInstanceUID of the series.
    """
    return f"series_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def uid_name(uid: str, unknown: str) -> str:
    """Returns what DICOM calls a UID, which is never the text itself: where a tag holds no UID, anything may stand.

    Args:
        uid: Value of a tag that should hold a UID.
        unknown: Text that is returned for a UID that the standard does not define.
    """
    quiet_pydicom()
    name = str(UID(uid).name)
    return unknown if name == uid else name


def damage_text(error: BaseException) -> str:
    """Returns why a file cannot be used, in plain words: texts of libraries quote values, which may name a patient.

    Args:
        error: One of ``UNREADABLE``.
    """
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, InvalidDicomError):
        return "it is empty or not DICOM"
    if isinstance(error, EOFError | BytesLengthException | struct.error):
        return "a value has another length than it needs"
    if isinstance(error, AttributeError | LookupError):
        return "an attribute that images need is missing or invalid"
    return "its values or the length of its data are not valid"


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

    Its attribute ``patient`` holds a digest for each of ``PATIENT_TAGS``, empty where the file has no value.

    Args:
        file: Path of the file.
        **kwargs: Options that are passed on to ``pydicom.dcmread``.

    Raises:
        DicomError: When a deflated file decompresses to more than any slice holds.
    """
    quiet_pydicom()
    check_inflated(file)
    slice_ = pydicom.dcmread(file, **(kwargs | {"specific_tags": [*SLICE_TAGS, *PATIENT_TAGS]}))
    slice_.patient = _take_patient(slice_)
    # pydicom converts a value when it is asked for; one that is invalid shall be found here.
    list(slice_)
    return slice_


def _take_patient(slice_: Any) -> tuple[str, ...]:
    """Digests of what tells the patient of a slice apart; the attributes themselves are removed."""
    digests = []
    for name in PATIENT_TAGS:
        # As it is in the file: a damaged value cannot be converted.
        value = slice_.get_item(name).value if name in slice_ else None
        text = (value.decode("latin-1") if isinstance(value, bytes) else str(value or "")).strip("\0 ")
        if name == "PatientName":
            # Devices write one name with and without empty components, and in either case.
            text = "^".join(part.strip() for part in text.upper().split("^")).rstrip("^=")
        digests.append(hashlib.sha256(text.encode()).hexdigest() if text else "")
        if name in slice_:
            delattr(slice_, name)
    return tuple(digests)


def check_inflated(file: str | Path) -> None:
    """Makes sure that a deflated DICOM file does not decompress without end: pydicom decompresses it as a whole.

    Args:
        file: Path of the file.

    Raises:
        DicomError: When it holds more than ``MAX_INFLATED`` bytes.
    """
    with open(file, "rb") as content:
        # The transfer syntax stands in the header of the file, which is short.
        if DeflatedExplicitVRLittleEndian.encode() not in content.read(2048):
            return
        content.seek(0)
        header = pydicom.filereader.read_file_meta_info(file)
        if header.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        content.seek(132 + 12 + header.FileMetaInformationGroupLength)
        stream, held = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not stream.eof and (chunk := stream.unconsumed_tail or content.read(2**16)):
            held += len(stream.decompress(chunk, 2**20))
            if held > MAX_INFLATED:
                raise DicomError(f"a deflated file holds more than {MAX_INFLATED} bytes; export the series again")


class DicomSeriesReader(PydicomReader):
    """MONAI's pydicom reader for one series, given as its folder or its files, with the checks it lacks.

    Where low numbers are shown white (``MONOCHROME1``), the stored numbers are inverted within the range of their bits.
    They stay as they are where the file says in which unit the rescaled numbers are.

    Args:
        max_voxels: Most voxels that a series may declare, at least 1; 500 million by default.
    """

    def __init__(self, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Returns the ordered slices of one series.

        Args:
            data: Folder, in which files that are not DICOM are passed over, or the files of the series.
            **kwargs: Options that are passed on to ``pydicom.dcmread``.

        Raises:
            DicomError: When there is no slice, or the slices make no volume. It never names a file or folder, since
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
        first = ordered[0]
        self._check(lambda: check_size([first.Columns, first.Rows, len(ordered)], self.max_voxels))
        self.modality = str(first.get("Modality", ""))
        for index, slice_ in enumerate(ordered):
            self._decode(slice_, f"slice {index + 1} of {len(ordered)}")
            # MONAI's reader stacks by InstanceNumber, which need not follow the positions.
            slice_.InstanceNumber = index + 1
        self.has_series = len(ordered) > 1
        self.series_files = [str(slice_.filename) for slice_ in ordered]
        self.filenames = [self.series_files] if self.has_series else self.series_files
        return ordered if self.has_series else ordered[0]

    def get_data(self, data: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Returns the volume and its metadata.

        The metadata holds, beside MONAI's: ``modality``, which MONAI drops; ``series_name``, for messages; and
        ``series_files``, the JSON list of the files in the order of the last axis (text, since MONAI would collate a
        list item by item).

        Raises:
            DicomError: When values of the header do not allow to compute the volume.
        """
        try:
            quiet_pydicom()
            array, meta = super().get_data(data)
        except UNREADABLE as error:
            # Without the cause, whose text may name a file.
            raise DicomError(
                f"{self.where}: pixels cannot be rescaled or stacked ({damage_text(error)}); export the series again"
            ) from None
        # order_slices accepts axes that are written with few digits.
        self._check(lambda: check_affine(meta["original_affine"], shear_tolerance=UNIT_TOLERANCE))
        described = {"modality": self.modality, "series_name": self.where}
        return array, meta | described | {"series_files": json.dumps(self.series_files)}

    def _check(self, check: Callable[[], None]) -> None:
        """Calls a check that holds for images of any kind; its message gets the name of the series."""
        try:
            check()
        except ImageError as error:
            raise DicomError(f"{self.where} {error}") from None

    def _get_array_data(self, img: Any, filename: str) -> NDArray[Any]:
        """The rescaled pixels of a slice; MONAI's method, which does not know of ``MONOCHROME1``."""
        unit = str(img.get("RescaleType") or "")
        if str(img.get("PhotometricInterpretation", "")) != "MONOCHROME1" or unit not in UNSPECIFIED:
            return super()._get_array_data(img, filename)
        # The smallest and the largest number that can be stored.
        ends = -1 if int(img.get("PixelRepresentation", 0)) else 2 ** int(img.BitsStored) - 1
        scale = {name: img[name].value for name in ("RescaleSlope", "RescaleIntercept") if name in img}
        inverted = SimpleNamespace(pixel_array=ends - img.pixel_array.astype(np.int64), **scale)
        return super()._get_array_data(inverted, filename)

    def _read_file(self, files: Sequence[str], index: int, kwargs: dict[str, Any]) -> Any:
        """One file of the series, after which the series is known by name."""
        try:
            slice_ = read_slice(files[index], **kwargs)
            # A truncated file may have lost it, and must not change the name that the others gave.
            if uid := str(slice_.get("SeriesInstanceUID") or ""):
                self.where = series_name(uid)
        except DicomError as error:
            raise DicomError(f"{self.where}: {error}") from None
        except UNREADABLE as error:
            raise DicomError(
                f"{self.where}: file {index + 1} of {len(files)} is no readable DICOM image ({damage_text(error)}); "
                "export the series again"
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
                f"{named} has no readable pixels ({damage_text(error)}); it may be truncated: export the series again"
            ) from None
