"""Compares baseline and Med-OoD on the same images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.cases import Case, class_name
from ..errors import MissingDataError
from ..figures import draw_bars, draw_side_by_side
from ..figures.slices import telling_slice
from ..metrics.confusion import Matrix, channel_indices, confusion_matrix, describe_matrices, pooled_iou
from ..metrics.statistics import signed_rank
from ..runtime.files import write_json
from ..runtime.progress import Progress
from ..runtime.sparing import sparing
from ..runtime.tables import number_text
from ..runtime.weights import load_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentedCase:
    """What a network makes of a labeled image.

    Args:
        name: Name of the case.
        image: Prepared image, ``(C, H, W[, D])``.
        truth: Class indices of the ground truth, ``(1, H, W[, D])``, from 0.
        predicted: Class indices that the network predicts, ``(1, H, W[, D])``, from 0.
        matrix: Confusion matrix, which tells what class is taken for what class, ``(C, C)``.
    """

    name: str
    image: Tensor
    truth: Tensor
    predicted: Tensor
    matrix: Matrix


@torch.no_grad()
def segment_cases(
    network: nn.Module,
    weights_file: str | Path,
    data: Sequence[Case],
    transform: Callable[[Case], Mapping[str, Any]],
    inferer: Callable[..., Any],
    device: torch.device,
) -> Iterator[SegmentedCase]:
    """Gives every labeled case, segmented with the given weights.

    Args:
        network: Network that takes the weights.
        weights_file: File of the weights.
        data: Cases; those without a label are passed over.
        transform: Transform that loads and prepares a case; its label has a binary channel for each class, see
            ``ClassChannelsd``.
        inferer: Inferer that runs the network over an image.
        device: Device that the network runs on.
    """
    load_weights(network, weights_file, device=device)
    network.to(device).eval()
    for case in data:
        if "label" not in case:
            continue
        loaded = transform(case)
        # Every operation on a tensor with metadata would copy these.
        image, label = (torch.as_tensor(loaded[key]).as_subclass(Tensor) for key in ("image", "label"))
        found = inferer(image[None].to(device), network)
        logits = found["logits"] if isinstance(found, Mapping) else found
        predicted = logits[0].argmax(dim=0, keepdim=True).cpu()
        truth = channel_indices(label.cpu())
        matrix = confusion_matrix(predicted, truth, logits.shape[1])
        yield SegmentedCase(str(case.get("case", "")), image, truth, predicted, matrix)


class BaselineComparison:
    """Compares the weights of the combined training with those of the baseline; does nothing without a baseline.

    Writes ``comparison.json``, the IoU of every class in ``per_class.png``, and the labeled cases with the largest
    difference in wrong pixels, whichever network has more of them, in ``side_by_side.png``: image, truth, baseline,
    Med-OoD.

    Args:
        network: Network that takes both weights in turn.
        weights_file: File of the weights of the combined training.
        baseline_file: File of the weights of the baseline, ``baseline/model.pt`` of a run. With ``None``, nothing is
            compared.
        data: Cases; those that are damaged or not in-distribution are passed over.
        transform: Transform that loads and prepares a case.
        inferer: Inferer that runs the network over an image.
        device: Device that the network runs on.
        output_dir: Folder of the results.
        foreground_labels: Classes that count, in order, by data set; they give the names of the classes. Default none.
        pictures: Number of cases shown in ``side_by_side.png``. Default 6.
    """

    def __init__(
        self,
        network: nn.Module,
        weights_file: str,
        baseline_file: str | None,
        data: Sequence[Case],
        transform: Callable[[Case], Mapping[str, Any]],
        inferer: Callable[..., Any],
        device: torch.device,
        output_dir: str,
        *,
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
        pictures: int = 6,
    ) -> None:
        self.files = {"baseline": baseline_file, "Med-OoD": weights_file}
        self.data = [case for case in data if case.get("in_distribution", True) and "damage" not in case]
        self.run_network = (transform, inferer, torch.device(device))
        self.network, self.output_dir = network, Path(output_dir)
        self.foreground_labels, self.pictures = foreground_labels, pictures

    def run(self) -> dict[str, Any]:
        """Returns the content of ``comparison.json``.

        Raises:
            MissingDataError: When there are no such weights.
            WeightsError: When weights belong to another network.
        """
        if not self.files["baseline"]:
            return {}
        labeled = [case for case in self.data if "label" in case]
        if not labeled:
            raise MissingDataError("baseline_file is given, but no case has a label to compare by; add labels")
        matrices: dict[str, list[Matrix]] = {}
        for name in self.files:
            with Progress(f"segmentation by {name}", len(labeled), "cases") as progress:
                matrices[name] = [case.matrix for case in progress.over(self._segmented(name, labeled))]
        count = len(matrices["baseline"][0]) - 1
        names = [class_name(self.data, number, self.foreground_labels) for number in range(1, count + 1)]
        report: dict[str, Any] = {name: describe_matrices(found, names) for name, found in matrices.items()}
        pooled = [[pooled_iou(matrix) for matrix in matrices[name]] for name in ("Med-OoD", "baseline")]
        report["iou_pooled_signed_rank"] = signed_rank(*pooled)
        write_json(report, self.output_dir / "comparison.json")
        bars = {name: [report[name]["per_class"][label]["iou"] for label in names] for name in self.files}
        draw_bars(names, bars, self.output_dir / "per_class.png", xlabel="class", ylabel="IoU over the test set")
        self._draw([labeled[index] for index in _most_different(*matrices.values())[: self.pictures]], names)
        for name in self.files:
            keys = ("iou_pooled", "miou_foreground", "dsc_foreground", "false_alarm")
            logger.info("%s: %s", name, ", ".join(f"{key} {number_text(report[name][key])}" for key in keys))
        return report

    def _segmented(self, name: str, cases: Sequence[Case]) -> Iterator[SegmentedCase]:
        """The cases, segmented by one of the two."""
        return segment_cases(self.network, str(self.files[name]), cases, *self.run_network)

    @sparing("side_by_side.png")
    def _draw(self, cases: Sequence[Case], names: Sequence[str]) -> None:
        """Cases in rows: image, truth and both predictions, of a volume the slice with most truth."""
        rows = []
        for base, med in zip(*(list(self._segmented(name, cases)) for name in self.files), strict=True):
            picture, truth = telling_slice(base.image, base.truth)
            maps = [truth]
            for predicted in (base.predicted, med.predicted):
                # The prediction in place of the picture: cut where the truth is largest.
                maps.append(telling_slice(predicted, base.truth)[0])
            rows.append((base.name, picture, maps))
        draw_side_by_side(rows, ("truth", *self.files), names, self.output_dir / "side_by_side.png")


def _most_different(first: Sequence[Matrix], second: Sequence[Matrix]) -> list[int]:
    """Indices of cases, that with the largest difference in wrong pixels first; cases alike in their order."""
    wrong = np.array([[matrix.sum() - matrix.trace() for matrix in matrices] for matrices in (first, second)])
    return np.argsort(-np.abs(wrong[0] - wrong[1]), kind="stable").tolist()
