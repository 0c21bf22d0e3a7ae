"""Pre-trains by denoising: noise, anomaly score, what it localizes, and fine-tuning on a few labeled patients."""

from .components import remove_small_components
from .curve import PixelCurve
from .evaluation import PatientEvaluation
from .finetuning import KeepDenoisers, finetuning_groups
from .foreground import erode_mask, foreground_mask
from .head import has_guide, load_body, replace_head
from .loading import LoadSliced, ScaleByPercentiled, SliceLoading, fit_size, foreground_percentiles, scale_slices
from .localization import measure_scores
from .loss import DenoisingLoss, NegativeDenoisingLoss, NegativeSegmentationLoss
from .masking import HideBlocks, make_pretext
from .noise import CoarseNoise, NoiseParameters, add_in_foreground, coarse_noise
from .rivals import learned_rivals
from .score import AnomalyMapd, anomaly_score
from .slice_datasets import HealthySlices, SliceDataset, same_slices
from .slices import draw_patients, known_slices, slice_cases
from .training import StagedPretraining
from .volumes import SaveSliced, VolumeWriter

__all__ = [
    "AnomalyMapd",
    "CoarseNoise",
    "DenoisingLoss",
    "HealthySlices",
    "HideBlocks",
    "KeepDenoisers",
    "LoadSliced",
    "NegativeDenoisingLoss",
    "NegativeSegmentationLoss",
    "NoiseParameters",
    "PatientEvaluation",
    "PixelCurve",
    "SaveSliced",
    "ScaleByPercentiled",
    "SliceDataset",
    "SliceLoading",
    "StagedPretraining",
    "VolumeWriter",
    "add_in_foreground",
    "anomaly_score",
    "coarse_noise",
    "draw_patients",
    "erode_mask",
    "finetuning_groups",
    "fit_size",
    "foreground_mask",
    "foreground_percentiles",
    "has_guide",
    "known_slices",
    "learned_rivals",
    "load_body",
    "make_pretext",
    "measure_scores",
    "remove_small_components",
    "replace_head",
    "same_slices",
    "scale_slices",
    "slice_cases",
]
