"""Scores how far an image is from what a denoiser makes of it, voxel by voxel."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import median_filter
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime.weights import load_weights
from .foreground import THRESHOLD, erode_mask, foreground_mask


def anomaly_score(
    image: Tensor,
    reconstruction: Tensor,
    *,
    foreground_threshold: float = THRESHOLD,
    erosion: int = 5,
    coverage: float = 0.95,
    median: int = 5,
    bright_channel: int | None = None,
) -> Tensor:
    """Returns the anomaly score of every voxel; higher means more abnormal.

    Holzschuh et al., MIDL 2023, after Kascenas et al. 2023: the absolute difference between the *clean* image and its
    reconstruction, averaged over channels, zero outside the eroded foreground, smoothed by a median filter. At the
    image's border the filter sees the nearest voxel repeated.

    Args:
        image: Images ``(B, C, H, W[, D])``, scaled, without noise.
        reconstruction: Images that the denoiser makes of them, of the same shape.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        erosion: Size of the neighborhood of :func:`erode_mask`, in voxels, odd. 5, the paper's, by default.
        coverage: Share of the neighborhood that is foreground, in [0, 1), see :func:`erode_mask`. 0.95, the paper's, by
            default.
        median: Size of the median filter, in voxels, odd; 1 for none. 5, the paper's, by default.
        bright_channel: Channel in which what is abnormal is brighter than what is healthy, as a glioma is in FLAIR: the
            score is how much brighter than its reconstruction it is there. With ``None``, the default and the paper's,
            any difference in any channel counts.

    Returns:
        ``(B, 1, H, W[, D])``, at least 0.

    Raises:
        ConfigError: When there is no such channel.

    Example:
        >>> image = torch.ones(1, 2, 8, 8)
        >>> float(anomaly_score(image, image).sum())
        0.0
    """
    difference = _difference(image - reconstruction, bright_channel)
    mask = foreground_mask(image, foreground_threshold=foreground_threshold, channel_dim=1)
    difference = difference * erode_mask(mask, size=erosion, coverage=coverage)
    return median_filter(difference, median, spatial_dims=image.ndim - 2) if median > 1 else difference


def _difference(excess: Tensor, bright_channel: int | None) -> Tensor:
    """How far images ``(B, C, H, W[, D])`` exceed their reconstructions, ``(B, 1, H, W[, D])``, at least 0."""
    if bright_channel is None:
        return excess.abs().mean(dim=1, keepdim=True)
    if not isinstance(bright_channel, int) or not 0 <= bright_channel < excess.shape[1]:
        raise ConfigError(
            f"bright_channel is {bright_channel!r}; accepted are none and the numbers of the image's channels, from 0 "
            f"to {excess.shape[1] - 1}"
        )
    return excess[:, bright_channel : bright_channel + 1].clamp(min=0)


class AnomalyMapd(MapTransform):
    """Adds the anomaly score of an image, :func:`anomaly_score`, by a denoiser.

    Args:
        keys: Key of the image ``(C, H, W[, D])``.
        denoiser: Network that takes the weights of the denoiser.
        weights_file: Path of the denoiser's weights.
        device: Device that the denoiser runs on.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        bright_channel: Channel in which what is abnormal is brighter, see :func:`anomaly_score`. None by default.
        preprocessing: Transform that has prepared the image, undone on the score. With ``None``, the default, the score
            stays on the grid of the prepared image.
        name: Key of the score ``(1, H, W[, D])``; ``anomaly`` by default.

    Raises:
        MissingDataError: When there are no such weights.
        WeightsError: When they belong to another network.
    """

    def __init__(
        self,
        keys: KeysCollection,
        denoiser: nn.Module,
        weights_file: str,
        device: str | torch.device,
        *,
        foreground_threshold: float = THRESHOLD,
        bright_channel: int | None = None,
        preprocessing: InvertibleTransform | None = None,
        name: str = "anomaly",
    ) -> None:
        super().__init__(keys)
        load_weights(denoiser, weights_file, device=device)
        self.denoiser, self.device = denoiser.to(device).eval(), torch.device(device)
        self.settings: dict[str, Any] = {"foreground_threshold": foreground_threshold, "bright_channel": bright_channel}
        self.preprocessing, self.name = preprocessing, name

    @torch.no_grad()
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with the score."""
        scored = dict(data)
        for key in self.key_iterator(scored):
            image = torch.as_tensor(scored[key]).as_subclass(Tensor)[None].to(self.device)
            score = anomaly_score(image, self.denoiser(image), **self.settings)[0].cpu()
            if self.preprocessing is not None:
                # Inverting uses the list of operations up, which the prediction needs as well.
                operations = copy.deepcopy(scored[key].applied_operations)
                moved = MetaTensor(score, meta=scored[key].meta, applied_operations=operations)
                score = self.preprocessing.inverse({key: moved})[key]  # type: ignore[index]
            scored[self.name] = score
        return scored
