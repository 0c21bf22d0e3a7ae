"""Counts which class is taken for which, and measures what follows from such confusion matrices.

A matrix ``(C, C)`` holds numbers of pixels, the true class along the first axis, the predicted one along the second;
class 0 is the background. Matrices of several images may be added.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from ..errors import LabelError

Matrix = NDArray[np.int64]


def confusion_matrix(predicted: Tensor, truth: Tensor, num_classes: int) -> Matrix:
    """Returns the confusion matrix of an image.

    Args:
        predicted: Predicted class indices of any shape, from 0 to ``C - 1``.
        truth: True class indices of as many pixels, from 0 to ``C - 1``.
        num_classes: Number of classes C, background included.

    Raises:
        LabelError: When the numbers of pixels differ, or an index is not from 0 to C - 1.
    """
    indices = {"predicted": predicted.flatten().long(), "truth": truth.flatten().long()}
    if predicted.numel() != truth.numel():
        raise LabelError(
            f"predicted is of shape {tuple(predicted.shape)}, truth of {tuple(truth.shape)}; give the same"
        )
    for name, values in indices.items():
        # Beyond the range, a pixel would be counted for another pair of classes.
        low, high = (int(value) for value in values.aminmax()) if len(values) else (0, 0)
        if low < 0 or high >= num_classes:
            raise LabelError(
                f"{name} holds class {low if low < 0 else high}; accepted are 0 to {num_classes - 1}, for num_classes "
                f"{num_classes}"
            )
    counts = torch.bincount(indices["truth"] * num_classes + indices["predicted"], minlength=num_classes**2)
    return np.asarray(counts.cpu(), dtype=np.int64).reshape(num_classes, num_classes)


def channel_indices(channels: Tensor) -> Tensor:
    """Returns class indices ``(1, H, W[, D])`` from a binary channel for each foreground class ``(K, H, W[, D])``."""
    numbers = torch.arange(1, len(channels) + 1, device=channels.device).reshape(-1, *[1] * (channels.ndim - 1))
    return ((channels > 0) * numbers).sum(dim=0, keepdim=True)


def all_background(matrix: Matrix) -> Matrix:
    """Returns the matrix of the same image when everything is predicted background."""
    constant = np.zeros_like(matrix)
    constant[:, 0] = matrix.sum(axis=1)
    return constant


def pooled_iou(matrix: Matrix) -> float:
    """Returns the IoU over all pixels and channels, background included: the measure of Gao and Xu's published runs.

    A constant all-background prediction scores ``b / (2 - b)`` at background share ``b``: 75 % at 86 %.

    Example:
        >>> round(pooled_iou(all_background(np.array([[86, 0], [0, 14]]))), 3)
        0.754
    """
    right, total = int(matrix.trace()), int(matrix.sum())
    return right / (2 * total - right) if total else math.nan


def pooled_dice(matrix: Matrix) -> float:
    """Returns the Dice over all pixels and channels, background included, which is the share of right pixels."""
    total = int(matrix.sum())
    return int(matrix.trace()) / total if total else math.nan


def class_ious(matrix: Matrix) -> list[float]:
    """Returns the IoU of every foreground class; NaN for a class that the truth does not have."""
    return _per_class(matrix, lambda right, rows, columns: right / (rows + columns - right))


def class_dices(matrix: Matrix) -> list[float]:
    """Returns the Dice of every foreground class; NaN for a class that the truth does not have."""
    return _per_class(matrix, lambda right, rows, columns: 2 * right / (rows + columns))


def foreground_confusions(matrix: Matrix) -> dict[str, int]:
    """Returns numbers of pixels: foreground taken for background, and the reverse, and for another foreground class."""
    classes = matrix[1:, 1:]
    return {
        "foreground_as_background": int(matrix[1:, 0].sum()),
        "background_as_foreground": int(matrix[0, 1:].sum()),
        "foreground_as_another_class": int(classes.sum() - classes.trace()),
        "foreground": int(matrix[1:].sum()),
        "background": int(matrix[0].sum()),
    }


def describe_matrices(matrices: Sequence[Matrix], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the measures of Gao and Xu over a test set, beside those of a constant all-background prediction.

    Args:
        matrices: Confusion matrices ``(C, C)`` of every image, at least one.
        names: Names of the foreground classes; their numbers by default.

    Returns:
        ``iou_pooled`` and ``dsc_pooled``, means over images; ``miou_foreground`` and ``dsc_foreground``, means over the
        classes that the whole test set has, and ``per_class``; ``confusions`` in pixels; ``false_alarm``, the share of
        the images without foreground in which some is found, NaN without such images, and ``empty_images``, their
        number; ``all_background``, the same of the constant prediction.
    """
    constant = [all_background(matrix) for matrix in matrices]
    return {"images": len(matrices), **_measures(matrices, names), "all_background": _measures(constant, names)}


def _measures(matrices: Sequence[Matrix], names: Sequence[str] | None) -> dict[str, Any]:
    """The measures of one prediction."""
    total = np.sum(matrices, axis=0)
    ious, dices = class_ious(total), class_dices(total)
    labels = names or [str(number) for number in range(1, len(total))]
    found_in_empty = [bool(matrix[0, 1:].any()) for matrix in matrices if not matrix[1:].any()]
    return {
        "iou_pooled": float(np.mean([pooled_iou(matrix) for matrix in matrices])),
        "dsc_pooled": float(np.mean([pooled_dice(matrix) for matrix in matrices])),
        "miou_foreground": mean_of_present(ious),
        "dsc_foreground": mean_of_present(dices),
        "per_class": {name: {"iou": a, "dsc": b} for name, a, b in zip(labels, ious, dices, strict=True)},
        "confusions": foreground_confusions(total),
        "false_alarm": float(np.mean(found_in_empty)) if found_in_empty else math.nan,
        "empty_images": len(found_in_empty),
    }


def mean_of_present(values: Sequence[float]) -> float:
    """Returns the mean of the values that exist; NaN without any."""
    present = [value for value in values if not math.isnan(value)]
    return float(np.mean(present)) if present else math.nan


def _per_class(matrix: Matrix, measure: Any) -> list[float]:
    """A measure of right pixels, true pixels and predicted pixels, for every foreground class."""
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    numbers = range(1, len(matrix))
    return [float(measure(int(matrix[n, n]), int(rows[n]), int(columns[n]))) if rows[n] else math.nan for n in numbers]


class ConfusionMatrixd(MapTransform):
    """Adds ``confusion``, the matrix of a labeled case.

    Args:
        keys: Key of the probabilities or logits, ``(C, H, W[, D])``, background first.
        label_key: Key of the ground truth, ``label`` by default: a channel for each foreground class, as
            ``ClassChannelsd`` gives it. A case without one passes.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with the matrix of a labeled case."""
        measured = dict(data)
        if not isinstance(measured.get(self.label_key), Tensor):
            return measured
        truth = channel_indices(torch.as_tensor(measured[self.label_key]))
        for key in self.key_iterator(measured):
            scores = torch.as_tensor(measured[key])
            measured["confusion"] = confusion_matrix(scores.argmax(dim=0).to(truth.device), truth, len(scores))
        return measured
