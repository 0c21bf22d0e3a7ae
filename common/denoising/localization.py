"""Measures how well a score finds what is abnormal over a whole set: average precision and best Dice."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.cases import Case
from ..data.names import free_name
from ..metrics.confusion import Matrix, class_dices, confusion_matrix, mean_of_present
from ..metrics.statistics import summarize
from ..runtime.progress import Progress
from .components import remove_small_components
from .curve import PixelCurve
from .foreground import THRESHOLD
from .rivals import Scorer, intensity_scorer, learned_rivals
from .score import anomaly_score
from .slice_datasets import PreparedSlice, SliceDataset
from .slices import person_of

logger = logging.getLogger(__name__)

ORACLE = "the threshold is the best one for these very cases, chosen by their labels: an upper limit, not a prediction"


@dataclass(frozen=True)
class PatientScores:
    """What a scorer says of one patient.

    Args:
        name: Name of the patient.
        score: Scores ``(S, H, W)``, slices in order, or a volume ``(H, W, D)``; higher means more abnormal.
        truth: Class indices of the same shape.
        predicted: Predicted class indices of the same shape; ``None`` where the scorer gives none.
    """

    name: str
    score: Tensor
    truth: Tensor
    predicted: Tensor | None


def by_patient(dataset: SliceDataset) -> dict[str, list[PreparedSlice]]:
    """Returns the labeled slices of every patient in the order of their numbers; in 3-D, every volume by itself."""
    groups: dict[tuple[str, str], list[PreparedSlice]] = {}
    for item in dataset.items:
        if item.label is not None:
            person = person_of(item.case)
            key = person if dataset.spatial_dims == 2 else (person[0], str(item.case.get("case", "")))
            groups.setdefault(key, []).append(item)
    taken: set[str] = set()
    return {
        free_name(_patient_name(items[0].case, dataset.spatial_dims), taken): sorted(items, key=_place)
        for items in groups.values()
    }


def _patient_name(case: Case, spatial_dims: int) -> str:
    """What a patient is called; who has no name is called after the case."""
    keys = ("patient", "region", "volume", "case") if spatial_dims == 2 else ("case",)
    return str(next((case[key] for key in keys if case.get(key)), ""))


def _place(item: PreparedSlice) -> tuple[str, int, str]:
    """The order of slices: by volume, number and name."""
    return str(item.case.get("volume", "")), int(item.case.get("slice", 0)), str(item.case.get("case", ""))


@torch.no_grad()
def score_patients(
    patients: Mapping[str, Sequence[PreparedSlice]], scorer: Scorer, device: torch.device, batch_size: int = 16
) -> Iterator[PatientScores]:
    """Gives the scores of one patient after the other.

    Args:
        patients: Name of every patient -> labeled slices, see :func:`by_patient`.
        scorer: Function that computes scores and class indices of a batch.
        device: Device that the scorer runs on.
        batch_size: Number of slices that are scored at once. 16 by default.
    """
    for name, items in patients.items():
        scores, classes = [], []
        for first in range(0, len(items), batch_size):
            images = torch.stack([item.image for item in items[first : first + batch_size]]).to(device)
            score, indices = scorer(images)
            scores.append(score.cpu())
            classes.append(indices if indices is None else indices.cpu())
        truth = torch.stack([item.label for item in items if item.label is not None])
        predicted = [part for part in classes if part is not None]
        yield PatientScores(
            name, _stack(torch.cat(scores)), _stack(truth), _stack(torch.cat(predicted)) if predicted else None
        )


def _stack(maps: Tensor) -> Tensor:
    """Slices ``(S, 1, H, W)`` as a stack ``(S, H, W)``, one volume ``(1, 1, H, W, D)`` as ``(H, W, D)``."""
    return maps[:, 0] if maps.ndim == 4 else maps[0, 0]


def denoiser_scorer(
    denoiser: nn.Module, foreground_threshold: float = THRESHOLD, bright_channel: int | None = None
) -> Scorer:
    """Returns a scorer by the anomaly score of a denoiser, see :func:`anomaly_score`."""
    settings: dict[str, Any] = {"foreground_threshold": foreground_threshold, "bright_channel": bright_channel}

    def score(images: Tensor) -> tuple[Tensor, None]:
        return anomaly_score(images, denoiser(images), **settings), None

    return score


def network_scorer(network: nn.Module) -> Scorer:
    """Returns a scorer by the probability of foreground of a softmax network."""

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(images).float()
        probability = 1 - logits.softmax(dim=1)[:, :1]
        return probability.clamp(min=0), logits.max(dim=1, keepdim=True).indices

    return score


def measure_scores(scored: Callable[[], Iterator[PatientScores]], *, min_size: int) -> dict[str, Any]:
    """Returns what a score is worth over a whole set.

    The set is scored twice, so that no more than one patient is held at a time. The first pass gives average precision
    and the best threshold. The second tells what small connected components, in 3-D over a patient's slices, cost.

    Args:
        scored: Function that gives the patients, from the first one at every call.
        min_size: Size of the smallest component that stays, in voxels.

    Returns:
        ``average_precision``, ``best_dice`` and its ``threshold`` (an oracle), ``prevalence``; ``filtered``, the first
        two with all voxels of small components (at that threshold) scored zero; ``dice_per_patient`` at that threshold
        (mean, std, n, values); and, where classes are predicted, ``segmentation``: Dice per patient of these, mean over
        the classes that the patient has, per class, and over the voxels of all patients (``dice_pooled``), each also
        ``filtered``.
    """
    curve = PixelCurve()
    for patient in scored():
        curve.update(patient.score, patient.truth)
    best = curve.best_dice()
    cleaned, dices, classes = PixelCurve(), {}, {}
    for patient in scored():
        score, truth = patient.score.numpy(), patient.truth.numpy()
        # The scores of a bin count as equal to its lower edge; a threshold that does not exist calls nothing.
        called = score >= best.threshold
        kept = remove_small_components(called, min_size)
        cleaned.update(torch.from_numpy(np.where(called & ~kept, 0, score)), patient.truth)
        dices[patient.name] = binary_dice(called, truth > 0)
        if patient.predicted is not None:
            classes[patient.name] = _class_matrices(patient.predicted, patient.truth, min_size)
    report: dict[str, Any] = {
        "average_precision": curve.average_precision(),
        "best_dice": best.dice,
        "threshold": best.threshold,
        "threshold_is": ORACLE,
        "prevalence": curve.prevalence,
        "filtered": {
            "min_component_size": min_size,
            "average_precision": cleaned.average_precision(),
            "best_dice": cleaned.best_dice().dice,
        },
        "dice_per_patient": _describe(dices),
    }
    if classes:
        plain, filtered = ({name: pair[part] for name, pair in classes.items()} for part in (0, 1))
        report["segmentation"] = _describe_classes(plain) | {"filtered": _describe_classes(filtered)}
    return report


def binary_dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Returns the Dice of two masks; NaN without any true voxel."""
    if not truth.any():
        return math.nan
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _class_matrices(predicted: Tensor, truth: Tensor, min_size: int) -> tuple[Matrix, Matrix]:
    """Confusion matrices of a patient, as predicted and without the small components of the foreground."""
    count = int(max(predicted.max(), truth.max())) + 1
    keep = torch.from_numpy(remove_small_components(predicted.numpy() > 0, min_size))
    pair = [confusion_matrix(indices, truth, max(count, 2)) for indices in (predicted, predicted * keep)]
    return pair[0], pair[1]


def _describe(values: Mapping[str, float]) -> dict[str, Any]:
    """Mean, standard deviation, number and all values."""
    return summarize(list(values.values())) | {"values": dict(values)}


def _describe_classes(matrices: Mapping[str, Matrix]) -> dict[str, Any]:
    """Dice per patient of predicted classes: mean over classes, and every class."""
    dices = {name: class_dices(matrix) for name, matrix in matrices.items()}
    count = max(len(row) for row in dices.values())
    per_class = {
        str(number + 1): summarize([row[number] if number < len(row) else math.nan for row in dices.values()])
        for number in range(count)
    }
    means = {name: mean_of_present(row) for name, row in dices.items()}
    whole: Matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
    for matrix in matrices.values():
        whole[: len(matrix), : len(matrix)] += matrix
    pooled = mean_of_present(class_dices(whole))
    return {"dice_per_patient": _describe(means), "dice_pooled": pooled, "per_class": per_class}


def measure_patients(
    what: str, patients: Mapping[str, Sequence[PreparedSlice]], scorer: Scorer, device: torch.device, *, min_size: int
) -> dict[str, Any]:
    """Returns :func:`measure_scores` of a scorer over patients, and shows how far it has come.

    Args:
        what: Name of the score.
        patients: Name of every patient -> labeled slices, see :func:`by_patient`.
        scorer: Function that computes scores and class indices of a batch.
        device: Device that the scorer runs on.
        min_size: Size of the smallest component that stays, in voxels.
    """
    # Each of the two passes over the set counts.
    with Progress(f"{what} of patients, in two passes", 2 * len(patients), "scores") as progress:
        return measure_scores(lambda: progress.over(score_patients(patients, scorer, device)), min_size=min_size)


def _measure_rivals(
    patients: Mapping[str, Sequence[PreparedSlice]], scorers: Mapping[str, Scorer], device: torch.device
) -> dict[str, dict[str, float]]:
    """Average precision and best Dice of every scorer."""
    report = {}
    with Progress("rivals, by patients", len(scorers) * len(patients), "scores") as progress:
        for name, scorer in scorers.items():
            curve = PixelCurve()
            for patient in progress.over(score_patients(patients, scorer, device)):
                curve.update(patient.score, patient.truth)
            report[name] = {"average_precision": curve.average_precision(), "best_dice": curve.best_dice().dice}
    return report


def localize_anomalies(
    dataset: SliceDataset,
    denoiser: nn.Module,
    device: torch.device,
    *,
    foreground_threshold: float,
    min_size: int,
    bright_channel: int | None = None,
    baselines: bool = True,
    healthy: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """Returns :func:`measure_scores` of a denoiser, beside those of plain rivals.

    Every channel by itself is measured in two ways: how bright it is (``intensity``), and how much brighter than the
    denoiser makes it (``brighter``).

    Args:
        dataset: Labeled slices.
        denoiser: Denoiser; it is moved to the device and left in evaluation mode.
        device: Device that the denoiser runs on.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`.
        min_size: Size of the smallest component that stays, in voxels.
        bright_channel: Channel in which what is abnormal is brighter, see :func:`anomaly_score`. None by default.
        baselines: Whether the channels are measured as well. True by default.
        healthy: Healthy images that further rivals learn from, see :func:`learned_rivals`. None by default.
    """
    denoiser.to(device).eval()
    patients = by_patient(dataset)
    found = denoiser_scorer(denoiser, foreground_threshold, bright_channel)
    report = measure_patients("anomaly score", patients, found, device, min_size=min_size)
    if baselines:
        channels = {f"channel {n}": n for n in range(len(next(iter(patients.values()))[0].image))}
        bright = {"mean of channels": None} | channels
        scorers = {name: intensity_scorer(channel, foreground_threshold) for name, channel in bright.items()}
        report["intensity"] = _measure_rivals(patients, scorers, device)
        brighter = {name: denoiser_scorer(denoiser, foreground_threshold, n) for name, n in channels.items()}
        report["brighter"] = _measure_rivals(patients, brighter, device)
    learned = learned_rivals(healthy, foreground_threshold)
    if learned:
        report["rivals"] = _measure_rivals(patients, learned, device)
    report["patients"], report["slices"] = len(patients), sum(map(len, patients.values()))
    return report
