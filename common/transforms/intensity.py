"""Normalizes intensities by modality (Karimi and Gholipour 2023, section III-A)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

from monai.config import KeysCollection
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange

from ..errors import ConfigError
from .modality import Modality, modality_of
from .percentiles import PERCENTILES, ScaleByPercentilesd
from .standard import MatchDecilesd, read_standard

Normalization = Literal["modality", "percentiles", "deciles"]


class NormalizeByModalityd(MapTransform):
    """Brings intensities to the range a network was trained in.

    Karimi and Gholipour 2023, section III-A: CT is clipped from the Hounsfield window to [0, 1]; MR is divided by the
    standard deviation of its voxels. Color pictures (RGB) of 8 bits are scaled to [0, 1], pixel by pixel. Which one
    applies is told by the case's ``modality`` (from ``dataset.json``), else by the DICOM tag (0008,0060), else by
    ``modality``.

    Args:
        keys: Keys of the images.
        modality: ``CT``, ``MR`` or ``RGB``, for images that do not tell. Default ``MR``.
        hounsfield_window: Lower and upper limit of CT in HU. Default (-1000, 1000), as in the paper.
        mr_scale: Transform of MR images that takes the place of the division by the standard deviation. Default none.

    Raises:
        ConfigError: When ``modality`` is not accepted.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: Modality = "MR",
        hounsfield_window: tuple[float, float] = (-1000, 1000),
        mr_scale: MapTransform | None = None,
    ) -> None:
        super().__init__(keys)
        if modality not in get_args(Modality):
            raise ConfigError(f"modality is {modality!r}; accepted are {', '.join(get_args(Modality))}")
        # By this name it is part of the digests in signature banks.
        self.default = modality
        self.hounsfield_window = tuple(hounsfield_window)
        if mr_scale is not None:
            # Only then: a bank that was fitted without it stays valid.
            self.mr_scale = mr_scale
        low, high = self.hounsfield_window
        self._scalers = {
            "CT": ScaleIntensityRange(low, high, 0.0, 1.0, clip=True),
            "MR": NormalizeIntensity(subtrahend=0.0),
            "RGB": ScaleIntensityRange(0, 255, 0.0, 1.0),
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with normalized images."""
        normalized = dict(data)
        for key in self.key_iterator(normalized):
            modality = modality_of(normalized, normalized[key], self.default)
            scale = getattr(self, "mr_scale", None) if modality == "MR" else None
            normalized[key] = scale(normalized)[key] if scale else self._scalers[modality](normalized[key])
        return normalized


def normalize_intensity(
    keys: KeysCollection,
    normalization: Normalization = "modality",
    *,
    modality: Modality = "MR",
    hounsfield_window: tuple[float, float] = (-1000, 1000),
    percentiles: Sequence[float] = PERCENTILES,
    landmarks_file: str | None = None,
) -> NormalizeByModalityd:
    """Returns the transform that normalizes images; CT and color pictures have scales of their own in each way.

    Args:
        keys: Keys of the images.
        normalization: How MR is normalized. ``modality``, the default, divides by the standard deviation;
            ``percentiles`` scales by percentiles of the volume, or of all slices of the patient; ``deciles`` aligns
            these to the landmarks of the training.
        modality: ``CT``, ``MR`` or ``RGB``, for images that do not tell. Default ``MR``.
        hounsfield_window: Lower and upper limit of CT in HU. Default (-1000, 1000).
        percentiles: Lower and upper percentile, see :class:`ScaleByPercentilesd`. Default 1 and 99.
        landmarks_file: File of the training's landmarks, see :class:`LandmarkLearner`, for ``deciles``. Default none.

    Raises:
        ConfigError: When a setting is not accepted.
        MissingDataError: When there are no landmarks for ``deciles``.
    """
    if normalization not in get_args(Normalization):
        raise ConfigError(f"normalization is {normalization!r}; accepted are {', '.join(get_args(Normalization))}")
    scale: MapTransform | None = None
    if normalization == "percentiles":
        scale = ScaleByPercentilesd(keys, percentiles)
    elif normalization == "deciles":
        scale = MatchDecilesd(keys, read_standard(landmarks_file))
    return NormalizeByModalityd(keys, modality, hounsfield_window, scale)
