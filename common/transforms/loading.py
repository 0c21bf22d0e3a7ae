"""Loads and checks cases before anything is computed from them: the first transforms of every workflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from monai.transforms import MapTransform

from ..reading.limits import MAX_VOXELS
from .labels import DecodeMaskd
from .scan import CheckImaged, CheckLabeld, LoadScand


class CaseLoading:
    """Makes the transforms that load images, and their labels, and check them.

    Args:
        spatial_dims: Number of axes of an image, 2 or 3.
        in_channels: Number of channels of an image, at least 1.
        max_voxels: Most voxels that a file may declare, see :class:`LoadScand`. Default 500 million.
        decode_masks: Whether gray values of masks are turned into class numbers, see :class:`DecodeMaskd`. Default
            false.
    """

    reader: ClassVar[type[LoadScand]] = LoadScand
    """The transform that loads."""

    def __init__(
        self, spatial_dims: int, in_channels: int, *, max_voxels: int = MAX_VOXELS, decode_masks: bool = False
    ) -> None:
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.max_voxels, self.decode_masks = max_voxels, decode_masks

    def image(self) -> list[MapTransform]:
        """Returns what loads and checks ``image``."""
        return [self._read("image"), CheckImaged("image", self.spatial_dims, self.in_channels)]

    def label(self) -> list[MapTransform]:
        """Returns what loads ``label`` alone, as a census of classes needs it."""
        return [self._read("label")]

    def labeled(self, *, optional: bool = False) -> list[MapTransform]:
        """Returns what loads and checks ``image`` and ``label``.

        Args:
            optional: Whether a case may lack a label. Default false.
        """
        decode: list[MapTransform] = [DecodeMaskd("label")] if self.decode_masks else []
        image = CheckImaged("image", self.spatial_dims, self.in_channels)
        return [self._read(["image", "label"], optional=optional), *decode, image, CheckLabeld("label")]

    def _read(self, keys: str | Sequence[str], *, optional: bool = False) -> LoadScand:
        return self.reader(keys, allow_missing_keys=optional, max_voxels=self.max_voxels)
