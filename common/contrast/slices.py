"""Cuts volumes into slices, or resizes pictures: a data set that tells patients, places and classes."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from ..data.cases import Case, decathlon_cases, read_listing
from ..data.names import safe_name
from ..errors import ConfigError, ImageError
from ..runtime.files import write_atomically, write_json
from ..runtime.progress import Progress
from ..transforms.scan import LoadScand, scan_name

logger = logging.getLogger(__name__)

KEPT = ("name", "reference", "licence", "modality", "labels")
"""What the listing of the slices says as that of the volumes does."""


def cut_volumes(dataset_dir: str, output_dir: str, longest: int | None = None) -> None:
    """Writes the axial slices of a data set of labeled volumes as a data set of two-dimensional NIfTI files.

    Every item of its ``dataset.json`` has ``patient``, so that no split tears slices of a patient apart, ``slice``, its
    number from 0, and ``classes``, the label values that it shows. Voxels are those of the file, or resized; slices of
    a single value, as beyond the end of a scan, are left out. Pictures are resized and written as PNG.

    Args:
        dataset_dir: Folder of the volumes or pictures, in the layout of the Medical Segmentation Decathlon.
        output_dir: Folder of the slices; files of the same names are replaced.
        longest: Number of pixels, at least 1, that the longer side of every slice is resized to; labels by nearest
            neighbor. Default none: sizes stay as they are, and pictures are refused.

    Example:
        trustseg slices data/A -o slices --longest 256

    Raises:
        MissingDataError: When there is no such data set.
        ImageError: When an image is no volume and is not to be resized, or cannot be read.
        ConfigError: When ``longest`` is not accepted.
    """
    if longest is not None and longest < 1:
        raise ConfigError(f"longest is {longest}; accepted are numbers of pixels from 1")
    cases, folder = decathlon_cases(dataset_dir), Path(output_dir)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = []
    with Progress("slices", len(cases), "volumes") as progress:
        for case in progress.over(cases):
            items += _cut(case, folder, longest)
    described = read_listing(Path(dataset_dir) / "dataset.json")
    listing = {key: described[key] for key in KEPT if key in described}
    write_json(listing | {"numTraining": len(items), "training": items}, folder / "dataset.json")
    logger.info("%d slices of %d volumes in %s", len(items), len(cases), folder)


def _cut(case: Case, folder: Path, longest: int | None) -> list[dict[str, Any]]:
    """Writes the slices of a volume, or a picture; returns their items."""
    given: dict[Any, Any] = dict(case)
    loaded = LoadScand(["image", "label"])(given)
    if loaded["image"].ndim == 3 and longest is not None:
        return [_write_picture(case, loaded, folder, longest)]
    if loaded["image"].ndim != 4:
        raise ImageError(
            f"{scan_name(case)}: an image of {loaded['image'].ndim - 1} axes; only volumes are cut, and pictures are "
            "resized where longest is given"
        )
    image, label = (_right_anterior(loaded[key]) for key in ("image", "label"))
    grown = 1.0 if longest is None else longest / max(image.shape[:2])
    affine = np.diag([*(np.array(image.header.get_zooms()[:2]) / grown), 1.0, 1.0])
    voxels, classes_of = image.get_fdata(dtype=np.float32), label.get_fdata(dtype=np.float32).astype(np.uint8)
    items = []
    for number in np.flatnonzero(np.ptp(voxels, axis=(0, 1))).tolist():
        name = safe_name(f"{case['case']}_s{number:03d}") + ".nii.gz"
        planes = {
            "images": resize_plane(voxels[None, :, :, number], longest)[0],
            "masks": resize_plane(classes_of[None, :, :, number], longest, nearest=True)[0],
        }
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


def resize_plane(plane: NDArray[Any], longest: int | None, *, nearest: bool = False) -> NDArray[Any]:
    """Returns a slice whose longer side has a number of pixels; proportions stay as they are.

    Args:
        plane: Slice ``(C, H, W)``.
        longest: Number of pixels of the longer side, at least 1; ``None`` leaves the slice as it is.
        nearest: Whether every pixel takes the value of the nearest one, as labels must. Default false: bilinear, with a
            filter against aliasing.
    """
    if longest is None or max(plane.shape[1:]) == longest:
        return plane
    size = [max(1, round(extent * longest / max(plane.shape[1:]))) for extent in plane.shape[1:]]
    given = torch.from_numpy(np.ascontiguousarray(plane)).float()[None]
    ways: dict[str, Any] = {"mode": "nearest-exact"} if nearest else {"mode": "bilinear", "antialias": True}
    return np.asarray(interpolate(given, size, **ways)[0]).astype(plane.dtype)


def _write_picture(case: Case, loaded: Mapping[Hashable, Any], folder: Path, longest: int) -> dict[str, Any]:
    """Writes a picture and its label at another size; returns their item."""
    image, label = (np.asarray(loaded[key], dtype=np.float32) for key in ("image", "label"))
    planes = {
        "images": resize_plane(image, longest).round().clip(0, 255).astype(np.uint8),
        "masks": resize_plane(label, longest, nearest=True).astype(np.uint8),
    }
    name = safe_name(str(case["case"])) + ".png"
    for part, plane in planes.items():
        # Readers of pictures give the columns first.
        pixels = plane.transpose(2, 1, 0)
        with write_atomically(folder / part / name) as temporary:
            Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0]).save(temporary, format="PNG")
    item: dict[str, Any] = {"image": f"./images/{name}", "label": f"./masks/{name}"}
    item |= {key: case[key] for key in ("patient", "region", "slice") if key in case}
    return item | {"classes": [int(value) for value in np.unique(planes["masks"])]}
