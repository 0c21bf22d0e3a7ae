"""Lists what a folder holds: scans of any format, and every other file with the reason why it is none."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..dicom.series import series_name
from ..dicom.tree import NOT_DICOM, DicomTree, find_series
from ..errors import ImageError, MissingDataError
from ..runtime.listing import NO_FILE, Skipped, count_reasons, walk_files
from ..runtime.sources import PICTURE_SUFFIXES, VOLUME_SUFFIXES, data_file
from .cases import Case, case_name, decathlon_scans, file_stem, task_name
from .endoscopy import is_endoscopy
from .names import folded, free_name, safe_name, with_digest

logger = logging.getLogger(__name__)

NESTED = "image in a folder below; give that folder as dataset_dir"
PICTURE = "picture; this bundle takes volumes"
VOXELS = "voxels without a header beside them that names them"
ATTRIBUTES = "attributes that macOS keeps of another file"
OTHER = "neither DICOM nor a file that ends as an image does"
UNLISTED = "not listed in dataset.json"
NO_FRAME = "no frame of a video"

VOXEL_SUFFIXES = (".img", ".raw", ".zraw", ".raw.gz")
ATTRIBUTES_PREFIX = "._"


@dataclass(frozen=True)
class FolderContent:
    """What a folder holds; the cases of DICOM series come last, in the order of the series.

    Args:
        folder: Folder that was searched.
        cases: Scans of the folder, each a case.
        tree: DICOM series of the folder, and every file that is no scan, whether the folder holds DICOM or not.
    """

    folder: Path
    cases: list[Case]
    tree: DicomTree = field(default_factory=DicomTree)


def find_scans(folder: str | Path, *, spatial_dims: int = 3, name: str = "dataset_dir") -> list[Case]:
    """Returns every scan of a folder.

    Args:
        folder: Decathlon folder (its training and test images), or image files, or DICOM series, these in a tree of
            folders of any depth. A series is named by its UID alone: PACS exports name folders after patients.
        spatial_dims: Number of spatial axes: 3, the default, looks for volumes, 2 for pictures as well.
        name: Name of the setting that a message calls the folder by; ``dataset_dir`` by default.

    Raises:
        MissingDataError: When the folder does not exist or holds no scan, or ``dataset.json`` lists a missing file.
    """
    return require_scans(search_folder(folder, spatial_dims, name), spatial_dims, name).cases


def search_folder(
    folder: str | Path, spatial_dims: int, name: str = "dataset_dir", *, complete: bool = True
) -> FolderContent:
    """Returns everything usable in a folder, and what is not.

    Image files are taken from the folder itself. Those of folders below, where labels or other results may lie, are
    listed and not used; DICOM series are found at any depth.

    Args:
        folder: Folder to search, see :func:`find_scans`, or the file of one scan.
        spatial_dims: Number of spatial axes, see :func:`find_scans`.
        name: Name of the setting, see :func:`find_scans`.
        complete: Whether every file of a listing must exist, see :func:`decathlon_scans`. True by default.

    Raises:
        MissingDataError: When the folder does not exist or cannot be read, or its ``dataset.json`` is of no use.
    """
    root = Path(folder)
    if os.path.isfile(root):
        return _single(root, spatial_dims, name)
    if not os.path.isdir(root):
        raise MissingDataError(f"{name} {root} does not exist; give a scan or a folder of scans")
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise MissingDataError(f"{name} {root} cannot be read ({error.strerror}); make it readable") from error
    if os.path.isfile(root / "dataset.json") or is_endoscopy(root):
        cases = decathlon_scans(root, complete=complete)
        skipped = _unlisted(root, cases)
        _log(cases, skipped, name)
        return FolderContent(root, cases, DicomTree(skipped=skipped))
    suffixes = accepted_suffixes(spatial_dims)
    files = [str(root / file) for file in names if _is_image(root / file, suffixes)]
    tree = find_series(root, known=[*files, *_voxels(files)])
    tree = replace(tree, skipped=[_explain(item, root, suffixes) for item in tree.skipped])
    cases = [{"image": file, "case": name} for file, name in zip(files, file_names(files), strict=True)]
    cases += [{"image": item.files, "case": series_name(item.uid)} for item in tree.series]
    cases = [case | {"task": task_name(root)} for case in unique_names(cases)]
    _log(cases, tree.skipped, name)
    return FolderContent(root, cases, tree)


def _single(file: Path, spatial_dims: int, name: str) -> FolderContent:
    """One file, which must be a scan; what lies beside it does not count."""
    if not _is_image(file, accepted_suffixes(spatial_dims)):
        raise MissingDataError(
            f"{name} {file} is no image of a kind that is read ({', '.join(accepted_suffixes(spatial_dims))}); of a "
            "DICOM series, give its folder"
        )
    case = {"image": str(file), "case": case_name(file), "task": task_name(file.parent)}
    return FolderContent(file.parent, [case])


def require_scans(content: FolderContent, spatial_dims: int, name: str = "dataset_dir") -> FolderContent:
    """Returns what was found, which must be something.

    Args:
        content: What a search has found in a folder.
        spatial_dims: Number of spatial axes, see :func:`find_scans`.
        name: Name of the setting, see :func:`find_scans`.

    Raises:
        MissingDataError: When the folder holds no scan.
    """
    if content.cases:
        return content
    reasons = count_reasons(content.tree.skipped)
    skipped = f" (skipped: {reasons})" if reasons else ""
    accepted = f"{', '.join(accepted_suffixes(spatial_dims))} and DICOM series"
    raise MissingDataError(f"{name} {content.folder} holds no scan{skipped}; accepted are {accepted}")


def accepted_suffixes(spatial_dims: int) -> tuple[str, ...]:
    """Returns the endings of the files that are scans.

    Args:
        spatial_dims: Number of spatial axes, see :func:`find_scans`.
    """
    return VOLUME_SUFFIXES + (PICTURE_SUFFIXES if spatial_dims == 2 else ())


def file_names(files: Sequence[str]) -> list[str]:
    """Returns the name of the case of every file of a folder.

    Files whose names would be equal, such as ``x.nii`` and ``x.nii.gz``, each get a digest of the file's own name. So
    no name goes over to another file when one of them is removed.

    Args:
        files: Paths of files of one folder.
    """
    names = [case_name(file) for file in files]
    number = Counter(map(folded, names))
    return [
        with_digest(name, os.path.basename(file)) if number[folded(name)] > 1 else name
        for file, name in zip(files, names, strict=True)
    ]


def unique_names(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases with safe names, and a number appended to one that occurs before, as in several folders.

    So no result lies outside ``output_dir``, and none overwrites another, also where file systems ignore case.
    """
    taken: set[str] = set()
    return [case | {"case": free_name(safe_name(str(case["case"])), taken)} for case in cases]


def _is_image(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file is a scan by its name; what is no regular file is never opened."""
    named = path.name.lower().endswith(suffixes) and not path.name.startswith(ATTRIBUTES_PREFIX)
    return named and os.path.isfile(path)


def _voxels(files: Sequence[str]) -> list[str]:
    """The files that belong to headers among the given ones."""
    found = []
    for file in files:
        try:
            voxels = data_file(file)
        except ImageError:
            # The header is a case that fails with the reason.
            continue
        if voxels:
            found.append(voxels)
    return found


def _explain(item: Skipped, root: Path, suffixes: tuple[str, ...]) -> Skipped:
    """The file with a reason that tells more than that it is not DICOM."""
    name = os.path.basename(item.file).lower()
    if item.reason != NOT_DICOM:
        return item
    if name.startswith(ATTRIBUTES_PREFIX):
        reason = ATTRIBUTES
    elif name.endswith(VOXEL_SUFFIXES):
        reason = VOXELS
    elif name.endswith(suffixes) and Path(item.file).parent != root:
        reason = NESTED
    else:
        reason = PICTURE if name.endswith(PICTURE_SUFFIXES) else OTHER
    return replace(item, reason=reason)


def _unlisted(root: Path, cases: Sequence[Case]) -> list[Skipped]:
    """The files of a data set that are neither images nor labels of its cases, nor its listing."""
    videos = is_endoscopy(root)
    files = [str(case[key]) for case in cases for key in ("image", "label") if key in case]
    known = {os.path.abspath(file) for file in [*files, *_voxels(files), str(root / "dataset.json")]}
    skipped: list[Skipped] = []
    for path in walk_files(root, skipped):
        # Beside every frame lie masks of other kinds.
        if os.path.abspath(path) in known or (videos and path.endswith("_mask.png")):
            continue
        reason = NO_FRAME if videos else UNLISTED
        skipped.append(Skipped(path, reason if os.path.isfile(path) else NO_FILE))
    return sorted(skipped, key=lambda item: item.file)


def _log(cases: Sequence[Case], skipped: Sequence[Skipped], name: str) -> None:
    """Tells which files have cases of another name, and how many files are not used, without their names."""
    for case in cases:
        # Not for a series: its files may be called after a patient.
        if isinstance(case["image"], str) and case_name(case["image"]) != file_stem(case["image"]):
            logger.info("case %r is the file %s", case["case"], case["image"])
    if skipped:
        logger.info("%d file(s) of %s are not used: %s", len(skipped), name, count_reasons(skipped))
