"""Checks slices of one DICOM series against one another and orders them by their positions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

COMMON_TAGS = ("StudyInstanceUID", "Modality", "SOPClassUID", "PhotometricInterpretation")
"""What all slices of a series have in common: a UID that two studies share must not mix their patients."""


def order_slices(slices: Sequence[Any], where: str) -> list[Any]:
    """Returns the slices of one series in the order of their positions, after checking that they make a volume.

    Neither of MONAI's DICOM readers does: they interleave two series and average over a missing slice in silence.

    Args:
        slices: Slices as pydicom data sets, with digests of the patient's attributes as ``patient``, as
            ``read_slice`` returns them.
        where: Name of the series in messages.

    Raises:
        DicomError: When slices are of several patients, studies, series, kinds, frames of reference, orientations or
            sizes. Also when slices lie at the same position or aside of the others, or one is missing.
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
    if _several_patients([getattr(slice_, "patient", ()) for slice_ in slices]):
        raise DicomError(
            f"{where}: slices of different patients under one SeriesInstanceUID; export each patient's series again"
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


def _several_patients(patients: Sequence[tuple[str, ...]]) -> bool:
    """Whether values of an attribute differ, or some slices lack the number, or without any the name, of others."""
    columns = zip(*patients, strict=True)
    # The first two, number and name, identify; the others may be missing from some slices.
    identified = {next(filter(None, patient[:2]), "") for patient in patients}
    return len(identified) > 1 or any(len(set(filter(None, column))) > 1 for column in columns)


def instance_text(uid: str) -> str:
    """Returns how a message names a slice; a UID that is none is not repeated, as anything may stand there."""
    return f" with SOPInstanceUID {uid}" if re.fullmatch(r"[0-9.]{1,64}", uid) else ""


def _numbers(slices: Sequence[Any], name: str, count: int, where: str) -> NDArray[np.float64]:
    """The values of a tag as ``(slices, count)``; raises when a slice has fewer finite ones."""
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
