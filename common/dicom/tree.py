"""Finds DICOM series in a folder tree as a PACS exports it: by their UID, the rest listed with the reason."""

from __future__ import annotations

import filecmp
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import MediaStorageDirectoryStorage

from ..runtime.listing import NO_FILE, Skipped, describe_path, walk_files
from .series import UNREADABLE, check_inflated, quiet_pydicom, read_slice, uid_name

logger = logging.getLogger(__name__)

PROGRESS_EVERY = 5000
"""Files between two lines of the log."""

NOT_DICOM = "not DICOM"
EMPTY = "empty file; it may be truncated: copy it again"
COPY = "copy of another file"
NO_HEADER = "header cannot be read; the file may be truncated: copy it again"
NO_GEOMETRY = "image without ImagePositionPatient and ImageOrientationPatient"
NO_SERIES = "image without SeriesInstanceUID"

HEADER_TAGS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "SharedFunctionalGroupsSequence",
)  # fmt: skip
"""All that is read of an object to find series, and nothing of the patient."""

PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


@dataclass(frozen=True)
class DicomSeries:
    """Files of one series, sorted by their paths, and after them damaged files that may be slices of it."""

    uid: str
    study: str
    modality: str
    files: list[str]


@dataclass(frozen=True)
class DicomTree:
    """What a folder tree holds: series, other files with the reason why they are none, and whether any is DICOM."""

    series: list[DicomSeries] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    is_dicom: bool = False


@dataclass(frozen=True)
class _Object:
    """What the header of one file tells; without a ``reason`` to skip it, it is a slice."""

    file: str
    reason: str = ""
    is_dicom: bool = False
    is_image: bool = False
    """Whether it may be a slice that lost its header, its geometry or its pixels."""
    kind: str = ""
    uid: str = ""
    study: str = ""
    series: str = ""
    modality: str = ""

    @property
    def is_stray(self) -> bool:
        """Whether it may be a slice of some series, of which only its folder can tell."""
        return bool(self.reason) and self.is_image and not self.series


def find_series(folder: str | Path, *, known: Collection[str] = ()) -> DicomTree:
    """Returns the DICOM series of a folder and of all folders below it, ordered by their paths.

    Files of one series may lie in different folders. Linked folders are not followed. Only headers are read.

    A damaged file may not tell its series: it is empty, cannot be read, or lacks the UID. It may be a slice of any
    series with slices of its kind in the same folder. It is listed as skipped and also given to each of these, so that
    they fail. A series that lost its first or last slice would look whole.

    Args:
        folder: Folder where to search.
        known: Paths of files that are scans of another format, which are not searched; none by default.

    Returns:
        The series, and what was skipped.
    """
    objects: list[_Object] = []
    unseen: list[Skipped] = []
    number_slices = 0
    others = set(known)
    searched = (path for path in walk_files(folder, unseen) if path not in others)
    for number, path in enumerate(searched, 1):
        objects.append(_inspect(path))
        number_slices += not objects[-1].reason
        if number % PROGRESS_EVERY == 0:
            logger.info("searching for DICOM: %d files, %d slices so far", number, number_slices)
    slices, skipped = _group(sorted(objects, key=lambda item: item.file))
    series = []
    for uid, members in slices.items():
        intact = next((item for item in members if not item.reason), members[0])
        series.append(DicomSeries(uid, intact.study, intact.modality, [item.file for item in members]))
    is_dicom = any(item.is_dicom for item in objects)
    if is_dicom:
        logger.info("%d DICOM series of %d files", len(series), sum(len(item.files) for item in series))
    return DicomTree(series, sorted([*unseen, *skipped], key=lambda item: item.file), is_dicom)


def describe_tree(
    tree: DicomTree, names: Sequence[str], root: str | Path, *, list_paths: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Returns the content of ``dicom_series.json``: which case is which series, and what was skipped.

    Args:
        tree: Series that were found, and files that were skipped.
        names: Names of the cases, in the order of the series.
        root: Folder that paths are given relative to.
        list_paths: Whether paths are shown, which may name patients; otherwise digests, see :func:`describe_path`.
            False by default.
    """

    def described(path: str) -> str:
        return describe_path(path, root, shown=list_paths)

    series = [
        {
            "case": name,
            "series_instance_uid": item.uid,
            "study_instance_uid": item.study,
            "modality": item.modality,
            "folder": described(os.path.commonpath([os.path.dirname(file) for file in item.files])),
            "files": len(item.files),
        }
        for name, item in zip(names, tree.series, strict=True)
    ]
    return {"series": series, "skipped": [{"file": described(i.file), "reason": i.reason} for i in tree.skipped]}


def _inspect(path: str) -> _Object:
    """What one file is, from its header alone."""
    if not os.path.isfile(path):
        # A device or a pipe could be waited for forever.
        return _Object(path, NO_FILE)
    item = _Object(path)
    try:
        quiet_pydicom()
        if _is_empty(path):
            return replace(item, reason=EMPTY, is_image=True)
        header, has_pixels = _read_header(path)
        if header is None:
            return replace(item, reason=NOT_DICOM)
        item = _identify(path, header)
        reason, is_image = _judge(header, has_pixels, item.kind)
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.strerror:
            return replace(item, reason=f"cannot be read ({error.strerror})", is_image=True)
        return replace(item, reason=NO_HEADER, is_dicom=True, is_image=True)
    if not reason and not item.series:
        return replace(item, reason=NO_SERIES, is_image=True)
    return replace(item, reason=reason, is_image=is_image)


def _is_empty(path: str) -> bool:
    """Whether a file holds nothing, or a part of the zeros that a DICOM file begins with."""
    with open(path, "rb") as file:
        start = file.read(132)
    return len(start) < 132 and not start.strip(b"\0")


def _read_header(path: str) -> tuple[Any, bool]:
    """Tags of a file and whether pixels follow them, or ``None`` for what is not DICOM."""
    has_pixels = False

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal has_pixels
        has_pixels = tag in PIXEL_TAGS
        return has_pixels

    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None, False
        check_inflated(path)
        file.seek(0)
        return read_partial(file, at_pixels, specific_tags=[Tag(name) for name in HEADER_TAGS]), has_pixels


def _identify(path: str, header: Any) -> _Object:
    """What object a file holds."""

    def text(name: str) -> str:
        return str(header.get(name) or "").strip()

    # A DICOMDIR has its class in the file's own header only.
    kind = text("SOPClassUID") or str(header.file_meta.get("MediaStorageSOPClassUID", ""))
    return _Object(
        path,
        is_dicom=True,
        kind=kind,
        uid=text("SOPInstanceUID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        modality=text("Modality"),
    )


def _judge(header: Any, has_pixels: bool, kind_uid: str) -> tuple[str, bool]:
    """Why an object is no slice, empty if it is one; and whether it may be a damaged slice."""
    kind = uid_name(kind_uid, "unknown kind").removesuffix(" Storage")
    if kind_uid == MediaStorageDirectoryStorage:
        return "DICOMDIR", False
    if not has_pixels:
        if not kind_uid:
            return NO_HEADER, True
        if "Image" not in kind:
            return f"no pixel data ({kind})", False
        return f"no pixel data ({kind}); the file may be truncated: copy it again", True
    if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        return f"multi-frame object ({kind}); export it as one file per slice", False
    colors = str(header.get("PhotometricInterpretation") or "MONOCHROME")
    if int(header.get("SamplesPerPixel") or 1) > 1 or not colors.startswith("MONOCHROME"):
        return "color image", False
    types = header.get("ImageType") or ""
    if "LOCALIZER" in ([types] if isinstance(types, str) else types):
        return "localizer", False
    if not header.get("ImagePositionPatient") or not header.get("ImageOrientationPatient"):
        return f"{NO_GEOMETRY} ({kind})", True
    return "", False


def _group(objects: Sequence[_Object]) -> tuple[dict[str, list[_Object]], list[Skipped]]:
    """The slices of each series without copies, and what is skipped."""
    kinds = {(item.series, item.kind) for item in objects if not item.reason}
    series: dict[str, list[_Object]] = defaultdict(list)
    taken: dict[tuple[str, str], list[str]] = defaultdict(list)
    skipped = []
    for item in objects:
        files = taken[item.series, item.uid]
        # A damaged slice stays in its series, so that this is reported as a whole and not segmented without it.
        if item.reason and not (item.is_image and (item.series, item.kind) in kinds):
            skipped.append(Skipped(item.file, item.reason))
        elif item.uid and any(_same_slice(file, item.file) for file in files):
            skipped.append(Skipped(item.file, COPY))
        else:
            series[item.series].append(item)
            files.append(item.file)
    for uid, strays in _strays(objects, series).items():
        series[uid] += strays
    return dict(series), skipped


def _strays(objects: Sequence[_Object], series: Mapping[str, Sequence[_Object]]) -> dict[str, list[_Object]]:
    """For each series the damaged files, of its kind or of none, in the folders of its slices."""
    places = {
        uid: {(os.path.dirname(item.file), kind) for item in members for kind in (item.kind, "")}
        for uid, members in series.items()
    }
    strays = [item for item in objects if item.is_stray]
    return {
        uid: [item for item in strays if (os.path.dirname(item.file), item.kind) in known]
        for uid, known in places.items()
    }


def _same_slice(first: str, second: str) -> bool:
    """Whether two files hold the same image at the same place, whatever else their headers say."""
    try:
        if filecmp.cmp(first, second, shallow=False):
            return True
        one, other = ({item.tag: item.value for item in read_slice(file)} for file in (first, second))
    except UNREADABLE:
        return False
    return one == other
