"""Measures how good a segmentation is, case by case, in millimeters where that applies."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from torch import Tensor

from ..metrics.segmentation import MM, PIXELS, THRESHOLD, count_overlap, measure_segmentation
from ..runtime.sources import PICTURE_SUFFIXES


class MeasureSegmentationd(MapTransform):
    """Adds ``metrics`` (channel -> metric -> value), ``overlaps``, ``shares`` (of voxels) and ``calibration_bins``.

    ``overlaps`` are numbers of voxels of each channel, see :func:`count_overlap`; those of several cases may be added.
    ``unit`` is that of distances, see :func:`distance_unit`. A case without a label gets none of these.

    Args:
        keys: Key of the probabilities, ``(K, H, W[, D])``.
        label_key: Key of the ground truth, ``(K, H, W[, D])``; a case without one passes. Default ``label``.
        width: Half width of the band of ECE and MCE, in voxels. Default 10.
        num_bins: Number of bins of ECE and MCE, at least 1. Default 10.
        softmax: Whether the probabilities are those of a softmax, background first: each voxel then belongs to its most
            probable class. The ground truth does not have a background then, and may lack classes at the end. Default
            false.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        *,
        width: float = 10,
        num_bins: int = 10,
        softmax: bool = False,
    ) -> None:
        super().__init__(keys)
        self.label_key = label_key
        self.softmax = softmax
        self.width = width
        self.num_bins = num_bins

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with the metrics of labeled cases."""
        measured = dict(data)
        if not isinstance(measured.get(self.label_key), Tensor):
            return measured
        for key in self.key_iterator(measured):
            # Every operation on a tensor with metadata would copy these.
            label, found = (torch.as_tensor(measured[name]).as_subclass(Tensor) for name in (self.label_key, key))
            image = measured["image"]
            axes = label.ndim - 1
            spacing = affine_to_spacing(image.affine, r=axes) if hasattr(image, "affine") else [1.0] * axes
            settings = {"width": self.width, "num_bins": self.num_bins}
            probabilities, predicted = self._split(found, len(label))
            channels = [
                measure_segmentation(probability, target, spacing, segmentation=mask, **settings)  # type: ignore[arg-type]
                for probability, target, mask in zip(probabilities, label, predicted, strict=True)
            ]
            measured["unit"] = distance_unit(image)
            measured["metrics"] = {str(index + 1): metrics for index, (metrics, _) in enumerate(channels)}
            measured["overlaps"] = {
                str(index): count_overlap(mask, target)
                for index, (mask, target) in enumerate(zip(predicted, label, strict=True), start=1)
            }
            measured["shares"] = {
                str(index + 1): float((target > 0).float().mean()) for index, target in enumerate(label)
            }
            measured["calibration_bins"] = torch.stack([bins for _, bins in channels]).sum(dim=0)
        return measured

    def _split(self, probability: Tensor, count: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Probability and segmentation of each foreground channel."""
        if not self.softmax:
            return probability, list(probability > THRESHOLD)
        best = probability.argmax(dim=0)
        return probability[1 : count + 1], [best == channel for channel in range(1, count + 1)]


def distance_unit(image: Any) -> str:
    """Returns the unit of distances in an image: ``mm``, or ``pixels`` in pictures and images without a geometry.

    Args:
        image: Image with the affine and the metadata of its file, or a plain tensor.
    """
    source = str(getattr(image, "meta", {}).get("filename_or_obj", "")).lower()
    return PIXELS if not hasattr(image, "affine") or source.endswith(PICTURE_SUFFIXES) else MM
