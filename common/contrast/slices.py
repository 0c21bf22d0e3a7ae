"""Cuts volumes into slices: a data set of pictures that tell their patient, their place and their classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..data.cases import Case, decathlon_cases, read_listing
from ..data.names import safe_name
from ..errors import ImageError
from ..runtime.files import write_atomically, write_json
from ..runtime.progress import Progress
from ..transforms.scan import LoadScand, scan_name

logger = logging.getLogger(__name__)

KEPT = ("name", "reference", "licence", "modality", "labels")
"""What the listing of the slices says as that of the volumes does."""


def cut_volumes(dataset_dir: str, output_dir: str) -> None:
    """Writes the axial slices of a data set of labeled volumes as a data set of two-dimensional NIfTI files.

    Every item of its ``dataset.json`` has ``patient``, so that no split tears slices of a patient apart, ``slice``, its
    number from 0, and ``classes``, the label values that it shows. Voxels are those of the file; slices of a single
    value, as beyond the end of a scan, are left out.

    Args:
        dataset_dir: Folder of the volumes, in the layout of the Medical Segmentation Decathlon.
        output_dir: Folder of the slices; files of the same names are replaced.

    Raises:
        MissingDataError: When there is no such data set.
        ImageError: When an image is no volume, or cannot be read.
    """
    cases, folder = decathlon_cases(dataset_dir), Path(output_dir)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = []
    with Progress("slices", len(cases), "volumes") as progress:
        for case in progress.over(cases):
            items += _cut(case, folder)
    described = read_listing(Path(dataset_dir) / "dataset.json")
    listing = {
        key: described[key] for key in ("name", "reference", "licence", "modality", "labels") if key in described
    }
    write_json(listing | {"numTraining": len(items), "training": items}, folder / "dataset.json")
    logger.info("%d slices of %d volumes in %s", len(items), len(cases), folder)


def _cut(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Writes the slices of a volume; returns their items."""
    given: dict[Any, Any] = dict(case)
    loaded = LoadScand(["image", "label"])(given)
    if loaded["image"].ndim != 4:
        raise ImageError(f"{scan_name(case)}: an image of {loaded['image'].ndim - 1} axes; only volumes are cut")
    image, label = (_right_anterior(loaded[key]) for key in ("image", "label"))
    affine = np.diag([*image.header.get_zooms()[:2], 1.0, 1.0])
    voxels, classes_of = image.get_fdata(dtype=np.float32), label.get_fdata(dtype=np.float32).astype(np.uint8)
    items = []
    for number in np.flatnonzero(np.ptp(voxels, axis=(0, 1))).tolist():
        name = safe_name(f"{case['case']}_s{number:03d}") + ".nii.gz"
        planes = {"images": voxels[:, :, number], "masks": classes_of[:, :, number]}
        for part, plane in planes.items():
            with write_atomically(folder / part / name) as temporary:
                nib.save(nib.Nifti1Image(plane, affine), temporary)
        item = {"image": f"./images/{name}", "label": f"./masks/{name}"}
        classes = [int(value) for value in np.unique(planes["masks"])]
        items.append(item | {"patient": str(case.get("patient", case["case"])), "slice": number, "classes": classes})
    return items


def _right_anterior(volume: Any) -> Any:
    """The first channel of a volume as a nibabel image whose axes point to the right, the front and the head."""
    stored = nib.Nifti1Image(np.asarray(volume[0], dtype=np.float32), np.asarray(volume.affine))
    return nib.as_closest_canonical(stored)
