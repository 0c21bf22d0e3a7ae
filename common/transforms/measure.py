"""How good a segmentation is, case by case, in millimeters where that applies."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.utils import affine_to_spacing
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from monai.transforms import MapTransform
from torch import Tensor

from ..calibration import boundary_band, calibration_bins, errors_from_bins

METRICS = ("dsc", "hd95", "assd", "ece", "mce")


def measure_segmentation(
    probability: Tensor,
    target: Tensor,
    spacing: Any,
    *,
    segmentation: Tensor | None = None,
    threshold: float = 0.5,
    width: float = 10,
    num_bins: int = 10,
) -> tuple[dict[str, float], Tensor]:
    """Returns the metrics of one structure in one case.

    Karimi and Gholipour 2023: DSC, HD95 and ASSD of the thresholded prediction, ECE and MCE of the probabilities in the
    band around the ground truth's surface.

    Args:
        probability: ``(H, W[, D])`` in [0, 1].
        target: ``(H, W[, D])``, zero or one.
        spacing: size of a voxel along each axis, in mm.
        segmentation: ``(H, W[, D])``, nonzero where the structure is predicted; by ``threshold`` without.
        threshold: a voxel is foreground above it.
        width: half width of the band, in voxels.
        num_bins: bins of ECE and MCE.

    Returns:
        ``dsc`` in [0, 1], ``hd95`` and ``assd`` in mm, ``ece`` and ``mce`` in [0, 1]; NaN where a metric does not exist
        (no ground truth; no prediction, for the distances). Then the calibration bins ``(3, num_bins)``.
    """
    predicted = (probability > threshold if segmentation is None else segmentation > 0)[None, None]
    truth = (target > 0)[None, None]
    band = boundary_band(target, width)
    bins = calibration_bins(probability.float(), target.float(), num_bins=num_bins, mask=band)
    ece, mce = errors_from_bins(bins)
    distances = (math.nan, math.nan)
    if bool(truth.any()) and bool(predicted.any()):
        settings: dict[str, Any] = {"include_background": True, "spacing": [float(size) for size in spacing]}
        distances = (
            float(compute_hausdorff_distance(predicted, truth, percentile=95, **settings)),
            float(compute_average_surface_distance(predicted, truth, symmetric=True, **settings)),
        )
    dsc = float(compute_dice(predicted, truth, ignore_empty=True))
    return dict(zip(METRICS, (dsc, *distances, ece, mce), strict=True)), bins


class MeasureSegmentationd(MapTransform):
    """Adds ``metrics`` (channel -> metric -> value), ``shares`` (of voxels) and ``calibration_bins`` to a labeled case.

    Args:
        keys: key of the probabilities, ``(K, H, W[, D])``.
        label_key: key of the ground truth, ``(K, H, W[, D])``; a case without one passes.
        width: half width of the band of ECE and MCE, in voxels.
        num_bins: bins of ECE and MCE.
        softmax: whether the probabilities are those of a softmax, background first: each voxel then belongs to its most
            probable class. The ground truth has no background, and may lack classes at the end.
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
            label, image = torch.as_tensor(measured[self.label_key]), measured["image"]
            axes = label.ndim - 1
            spacing = affine_to_spacing(image.affine, r=axes) if hasattr(image, "affine") else [1.0] * axes
            settings = {"width": self.width, "num_bins": self.num_bins}
            probabilities, predicted = self._split(torch.as_tensor(measured[key]), len(label))
            channels = [
                measure_segmentation(probability, target, spacing, segmentation=mask, **settings)  # type: ignore[arg-type]
                for probability, target, mask in zip(probabilities, label, predicted, strict=True)
            ]
            measured["metrics"] = {str(index + 1): metrics for index, (metrics, _) in enumerate(channels)}
            measured["shares"] = {
                str(index + 1): float((target > 0).float().mean()) for index, target in enumerate(label)
            }
            measured["calibration_bins"] = torch.stack([bins for _, bins in channels]).sum(dim=0)
        return measured

    def _split(self, probability: Tensor, count: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Probability and segmentation of each foreground channel."""
        if not self.softmax:
            return probability, [None] * count
        best = probability.argmax(dim=0)
        return probability[1 : count + 1], [best == channel for channel in range(1, count + 1)]
