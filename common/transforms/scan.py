"""Loads and checks images and labels: bad input is named before anything is computed from it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import CenterSpatialCrop, LoadImaged, MapTransform
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, DicomError, ImageError, LabelError
from ..reading import MAX_VOXELS, plain_reason
from ..runtime.sources import check_source, readable_path
from .readers import choose_reader, is_series

PALETTE_SUFFIXES = (".png", ".tif", ".tiff")
"""Kinds of pictures that may hold a palette and are read as its numbers."""

AFFINE_TOLERANCE = 1e-3
"""Largest difference, in mm, between the affines of an image and its label."""


def scan_name(data: Mapping[Any, Any], key: Hashable = "image") -> str:
    """Returns what a message calls a case: its name, or else the file it came from.

    A DICOM series is never named by a path, since PACS exports name folders and files after patients.
    """
    if "case" in data:
        return f"case {data['case']!r}"
    value = data.get(key)
    if is_series(value):
        return "DICOM series"
    meta = getattr(value, "meta", {})
    source = meta.get("series_name", meta.get("filename_or_obj", value if isinstance(value, str | Path) else ""))
    return f"case {Path(str(source)).name!r}"


def check_palette(path: Any, name: str) -> None:
    """Makes sure that a file is no picture with a palette, whose numbers mean nothing without it.

    Raises:
        ImageError: When it is one.
    """
    if Path(str(path)).suffix.lower() in PALETTE_SUFFIXES:
        with Image.open(path) as picture:
            if picture.mode == "P":
                raise ImageError(f"{name}: the picture has a palette of colors; save it as RGB or as gray values")


class LoadScand(LoadImaged):
    """Loads images and labels, channel first: NIfTI, MHA, NRRD and pictures by their suffix, and DICOM series.

    A folder or a list of files is a DICOM series. What cannot be read is reported in one line that names the case. The
    geometry is that of the file: nothing in it is corrected.

    Args:
        keys: Keys of the paths.
        allow_missing_keys: Whether a case may lack a key, as unlabeled cases do. Default false.
        max_voxels: Largest number of voxels that a file may declare, at least 1; one that declares more is not read.
            Default 500 million.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__(keys, ensure_channel_first=True, image_only=True, allow_missing_keys=allow_missing_keys)
        if not isinstance(max_voxels, int) or max_voxels < 1:
            raise ConfigError(f"max_voxels is {max_voxels!r}; accepted are whole numbers from 1")
        self.max_voxels = max_voxels

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Returns ``data`` with every path replaced by a ``(C, H, W[, D])`` float32 ``MetaTensor``.

        Raises:
            ImageError: When a file cannot be read, declares more than ``max_voxels``, or has no valid geometry. Also
                when the listing's item of the case was refused.
        """
        if "refused" in data:
            raise ImageError(f"{scan_name(data)}: {data['refused']}")
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            source = loaded[key]
            if not is_series(source):
                check_source(source, f"{scan_name(data)}: {key} {source}")
            try:
                image = self._read(source, reader)
                # MONAI Label sets the loader to return the metadata as well, which the image carries anyway.
                loaded[key] = image[0] if isinstance(image, tuple) else image
            except DicomError:
                raise
            except Exception as error:  # every reader library has errors of its own kinds
                if is_series(source):
                    # Without the cause, whose text may name a file.
                    raise ImageError(
                        f"{scan_name(data)}: {key} cannot be read ({type(error).__name__}); export the series again"
                    ) from None
                raise ImageError(f"{scan_name(data)}: {key} {source} {plain_reason(error)}") from error
        return loaded

    def _read(self, source: Any, reader: Any) -> Any:
        """What the loader returns for a file that may be opened, or for a DICOM series."""
        reader = reader or choose_reader(source, self.max_voxels)
        if is_series(source):
            return self._loader(source, reader)
        with readable_path(source) as path:
            image = self._loader(path, reader)
        loaded = image[0] if isinstance(image, tuple) else image
        loaded.meta["filename_or_obj"] = str(source)
        return image


class CheckImaged(MapTransform):
    """Makes sure that an image is one this bundle can segment.

    Args:
        keys: Keys of the images.
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of an image. Default 1.
    """

    def __init__(self, keys: KeysCollection, spatial_dims: int, in_channels: int = 1) -> None:
        super().__init__(keys)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` unchanged.

        Raises:
            ImageError: When the number of axes or channels is another, or the image is constant or not finite. Also
                when a picture holds numbers of colors in place of intensities.
        """
        for key in self.key_iterator(dict(data)):
            image: Tensor = torch.as_tensor(data[key])
            name, dims, shape = scan_name(data, key), self.spatial_dims, tuple(image.shape)
            # A flat volume or a series over time also shows as a last axis that is too many or of size one.
            if image.ndim != dims + 1 or (dims == 3 and min(shape[1:]) < 2):
                raise ImageError(f"{name}: image of shape {shape} (channels first); this bundle takes {dims}-D images")
            if shape[0] != self.in_channels:
                raise ImageError(
                    f"{name}: image of shape {shape} has {shape[0]} channels; this bundle takes {self.in_channels}: a "
                    "series over time or of several contrasts must be split first, a color picture turned to gray, or "
                    "in_channels set and a network trained for it"
                )
            check_palette(getattr(image, "meta", {}).get("filename_or_obj", ""), name)
            bad = int((~torch.isfinite(image)).sum())
            if bad:
                raise ImageError(f"{name}: image holds {bad} NaN or infinite voxels; repair or exclude the scan")
            if bool((image == image.flatten()[0]).all()):
                raise ImageError(
                    f"{name}: every voxel is {float(image.flatten()[0]):g}; a constant image shows nothing"
                )
        return dict(data)


class CheckLabeld(MapTransform):
    """Makes sure that a label fits its image and holds class indices that are accepted.

    Args:
        keys: Keys of the labels; a case without a label passes.
        image_key: Key of the image. Default ``image``.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` unchanged.

        Raises:
            LabelError: When shape or affine differ from the image's, it has several channels, or a value is no accepted
                class. Palette and 16-bit pictures are accepted: they hold the numbers of the classes.
        """
        for key in self.key_iterator(dict(data)):
            label, image, name = data[key], data[self.image_key], scan_name(data, self.image_key)
            if len(label) != 1:
                raise LabelError(
                    f"{name}: label of shape {tuple(label.shape)} has {len(label)} channels; save the numbers of the "
                    "classes in one channel, without colors or transparency"
                )
            if label.shape[1:] != image.shape[1:]:
                raise LabelError(
                    f"{name}: label of shape {tuple(label.shape[1:])}, image of shape {tuple(image.shape[1:])}; both "
                    "must be equal"
                )
            affines = [np.asarray(item.affine) for item in (label, image) if hasattr(item, "affine")]
            if len(affines) == 2 and np.abs(affines[0] - affines[1]).max() > AFFINE_TOLERANCE:
                raise LabelError(
                    f"{name}: label and image have different affines; save the label in the image's geometry"
                )
            values = torch.unique(torch.as_tensor(label)).tolist()
            accepted = data.get("classes")
            wrong = [v for v in values if v % 1 or v < 0 or (accepted is not None and int(v) not in accepted)]
            if wrong:
                raise LabelError(
                    f"{name}: label holds {wrong[:5]}; accepted are "
                    f"{accepted if accepted is not None else 'whole numbers from 0'}: correct the label or dataset.json"
                )
        return dict(data)


class CropOODd(MapTransform):
    """Cuts out the center of cases that are not in-distribution, so that size alone does not give them away.

    Args:
        keys: Keys of images and labels.
        crop_size: Largest size in voxels along each axis. ``None``, the default, leaves cases as they are.
    """

    def __init__(self, keys: KeysCollection, crop_size: Sequence[int] | None = None) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.crop = None if crop_size is None else CenterSpatialCrop(crop_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with out-of-distribution cases cropped."""
        cropped = dict(data)
        # A damaged in-distribution scan keeps its size: only the damage shall tell.
        outside = not cropped.get("in_distribution", True) and "damage" not in cropped
        if self.crop is not None and outside:
            for key in self.key_iterator(cropped):
                cropped[key] = self.crop(cropped[key])
        return cropped
