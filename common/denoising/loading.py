"""Loads slices of volumes and patients, scales them and brings them to one size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing, to_affine_nd
from monai.transforms import Compose, MapTransform, Orientation, Resized, SpatialPadd
from torch import Tensor

from ..errors import ConfigError
from ..reading import MAX_VOXELS
from ..transforms.loading import CaseLoading
from ..transforms.scan import CheckLabeld, LoadScand
from ..transforms.standard import MatchDecilesd, read_standard

PERCENTILE = 99.0
"""Percentile of the foreground's intensities that becomes 1; the paper's."""


def foreground_percentiles(images: Sequence[Tensor], percentile: float = PERCENTILE) -> list[float]:
    """Returns a percentile of the positive intensities of every channel, over several slices.

    Holzschuh et al., MIDL 2023, section 2: "the 99th percentile foreground voxel intensity was used to scale each
    individual modality of each scan".

    Args:
        images: Slices or volumes of one scan, ``(C, H, W[, D])`` each.
        percentile: Percentile, in [0, 100]. 99, the paper's, by default.

    Returns:
        One number for each channel, 0 for one that is nowhere positive.
    """
    numbers = []
    for channel in zip(*(np.asarray(torch.as_tensor(image)) for image in images), strict=True):
        positive = np.concatenate([part[part > 0] for part in channel])
        numbers.append(float(np.percentile(positive, percentile)) if positive.size else 0.0)
    return numbers


def subtract_border(image: Any) -> Any:
    """Returns an image, each channel lowered by the median of its outermost voxels, and zero where that is negative.

    So air that is not zero in some scans is no foreground. A channel whose border is its lightest part, as that of an
    inverted image is, stays as it is: that border is no air, and nothing would be left. Not in the paper, whose images
    had everything but brain removed.

    Args:
        image: Image ``(C, H, W[, D])``.
    """
    border = torch.ones(tuple(image.shape[1:]), dtype=torch.bool, device=image.device)
    border[(slice(1, -1),) * border.ndim] = False
    channels = torch.as_tensor(image).as_subclass(Tensor)
    air = channels[:, border].median(dim=1).values
    smallest, largest = channels.flatten(1).aminmax(dim=1)
    air = torch.where((largest == air) & (smallest < air), torch.zeros_like(air), air)
    return (image - air.reshape(-1, *[1] * border.ndim)).clip(min=0)


class ScaleByPercentiled(MapTransform):
    """Divides every channel by a percentile of its foreground's intensities.

    Args:
        keys: Keys of the images ``(C, H, W[, D])``.
        percentile: Percentile, above 0, up to 100, see :func:`foreground_percentiles`; 99 by default. Where a case has
            ``scale``, that of its whole scan, these numbers are taken; otherwise the image's own. A channel without any
            intensity stays zero.
        clear_border: Whether :func:`subtract_border` comes first. False by default.
    """

    def __init__(self, keys: KeysCollection, percentile: float = PERCENTILE, *, clear_border: bool = False) -> None:
        super().__init__(keys)
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile is {percentile}; accepted is above 0, up to 100")
        self.percentile, self.clear_border = percentile, clear_border

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with scaled images."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            image = subtract_border(scaled[key]) if self.clear_border else scaled[key]
            numbers = scaled.get("scale") or foreground_percentiles([image], self.percentile)
            divisors = torch.tensor([number or 1.0 for number in numbers], dtype=torch.float32, device=image.device)
            scaled[key] = image / divisors.reshape(-1, *[1] * (image.ndim - 1))
        return scaled


def scale_slices(
    keys: KeysCollection,
    normalization: str = "percentiles",
    *,
    percentile: float = PERCENTILE,
    clear_border: bool = False,
    landmarks_file: str | None = None,
) -> MapTransform:
    """Returns the transform that scales slices.

    Args:
        keys: Keys of the images.
        normalization: ``percentiles``, the default and the paper's, divides by a percentile; ``deciles`` aligns the
            deciles of the patient to the landmarks of the training.
        percentile: Percentile, see :class:`ScaleByPercentiled`. 99 by default.
        clear_border: Whether borders are subtracted first, see :class:`ScaleByPercentiled`. False by default.
        landmarks_file: File of the training's landmarks, for ``deciles``. None by default.

    Raises:
        ConfigError: When a setting is not accepted.
        MissingDataError: When there are no landmarks for ``deciles``.
    """
    if normalization not in ("percentiles", "deciles"):
        raise ConfigError(f"normalization is {normalization!r}; accepted are percentiles and deciles")
    if normalization == "percentiles":
        return ScaleByPercentiled(keys, percentile, clear_border=clear_border)
    if clear_border:
        raise ConfigError("clear_border is true with normalization 'deciles'; accepted is false: --clear_border False")
    return MatchDecilesd(keys, read_standard(landmarks_file))


def fit_size(
    keys: KeysCollection, roi_size: Sequence[int], mode: str | Sequence[str], *, allow_missing_keys: bool = False
) -> Compose:
    """Returns what brings images of any size to one size: the longest axis is resized to it, the others are padded.

    Both steps can be inverted. Proportions stay as they are.

    Args:
        keys: Keys of images and labels.
        roi_size: Size along each axis, in voxels; equal along all axes.
        mode: Mode of interpolation, one for all keys or one for each: ``area`` or ``bilinear`` for images, ``nearest``
            for labels.
        allow_missing_keys: Whether a case may lack a key. False by default.

    Raises:
        ConfigError: When the axes differ.
    """
    if len(set(roi_size)) != 1:
        raise ConfigError(f"roi_size is {list(roi_size)}; accepted are equal numbers along all axes")
    settings = {"allow_missing_keys": allow_missing_keys}
    resize = Resized(keys, roi_size[0], size_mode="longest", mode=mode, **settings)
    return Compose([resize, SpatialPadd(keys, tuple(roi_size), **settings)])


class LoadSliced(LoadScand):
    """Loads images and labels as ``LoadScand`` does; of a case with ``plane``, that slice of its volume.

    Volumes are turned to RAS first, so that slices are axial. The last volume is remembered, since slices of one volume
    come one after the other.

    Args:
        keys: Keys of the paths.
        allow_missing_keys: Whether a case may lack a key. False by default.
        max_voxels: Largest number of voxels that a file may declare, see :class:`LoadScand`. 500 million by default.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__(keys, allow_missing_keys, max_voxels)
        self._last: tuple[str, dict[Hashable, Any]] = ("", {})

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Returns ``data`` with every path replaced by a ``(C, H, W[, D])`` float32 ``MetaTensor``.

        Raises:
            ImageError: When a file cannot be read.
            LabelError: When the label of a volume does not fit it.
        """
        if "plane" not in data:
            loaded = super().__call__(data, reader)
            for key in self.key_iterator(loaded):
                if loaded[key].ndim == 3:
                    # Readers give pictures an affine of three axes, which MONAI's orientation warns of.
                    loaded[key].affine = to_affine_nd(2, loaded[key].affine)
            return loaded
        sources = repr([data.get(key) for key in self.keys])
        if sources != self._last[0]:
            volume = super().__call__(data, reader)
            if "label" in self.keys and "label" in volume:
                CheckLabeld("label")(volume)
            turned = {key: to_ras(volume[key]) for key in self.key_iterator(volume)}
            self._last = (sources, turned)
        loaded = dict(data)
        for key, volume in self._last[1].items():
            loaded[key] = plane_of(volume, int(data["plane"]))
        return loaded


def to_ras(volume: Any) -> MetaTensor:
    """Returns a volume ``(C, H, W, D)`` with its axes to the right, to the front and upwards."""
    turned: MetaTensor = Orientation("RAS", labels=None)(volume)
    return turned


def plane_of(volume: MetaTensor, plane: int) -> MetaTensor:
    """Returns an axial slice ``(C, H, W)`` of a volume in RAS, with the spacing of its two axes."""
    spacing = affine_to_spacing(volume.affine)
    affine = torch.diag(torch.tensor([float(spacing[0]), float(spacing[1]), 1.0], dtype=torch.float64))
    cut = volume[..., plane].as_tensor().clone()
    return MetaTensor(cut, affine=affine, meta={"filename_or_obj": volume.meta.get("filename_or_obj", "")})


class SliceLoading(CaseLoading):
    """Makes the transforms that load slices, and their labels, and check them, see :class:`CaseLoading`."""

    reader = LoadSliced
