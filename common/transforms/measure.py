"""How good a segmentation is, case by case, in millimeters where that applies."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
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
    probability: Tensor, target: Tensor, spacing: Any, *, threshold: float = 0.5, width: float = 10, num_bins: int = 10
) -> tuple[dict[str, float], Tensor]:
    """Returns the metrics of one structure in one case.

    Karimi and Gholipour 2023: DSC, HD95 and ASSD of the thresholded prediction, ECE and MCE of the probabilities in the
    band around the ground truth's surface.

    Args:
        probability: ``(H, W[, D])`` in [0, 1].
        target: ``(H, W[, D])``, zero or one.
        spacing: size of a voxel along each axis, in mm.
        threshold: a voxel is foreground above it.
        width: half width of the band, in voxels.
        num_bins: bins of ECE and MCE.

    Returns:
        ``dsc`` in [0, 1], ``hd95`` and ``assd`` in mm, ``ece`` and ``mce`` in [0, 1]; NaN where a metric does not exist
        (no ground truth; no prediction, for the distances). Then the calibration bins ``(3, num_bins)``.
    """
    predicted, truth = (probability > threshold)[None, None], (target > 0)[None, None]
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
    """Adds ``metrics`` (channel -> metric -> value) and ``calibration_bins`` to a labeled case.

    Args:
        keys: key of the probabilities, ``(K, H, W[, D])``.
        label_key: key of the ground truth, ``(K, H, W[, D])``; a case without one passes.
        width: half width of the band of ECE and MCE, in voxels.
        num_bins: bins of ECE and MCE.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str = "label", *, width: float = 10, num_bins: int = 10
    ) -> None:
        super().__init__(keys)
        self.label_key = label_key
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
            channels = [
                measure_segmentation(torch.as_tensor(probability), target, spacing, **settings)  # type: ignore[arg-type]
                for probability, target in zip(measured[key], label, strict=True)
            ]
            measured["metrics"] = {str(index + 1): metrics for index, (metrics, _) in enumerate(channels)}
            measured["calibration_bins"] = torch.stack([bins for _, bins in channels]).sum(dim=0)
        return measured
