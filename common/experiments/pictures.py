"""Draws what the finished runs of an experiment make of the same test cases, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.cases import class_name
from ..errors import ConfigError
from ..figures import draw_side_by_side
from ..figures.slices import telling_slice
from .grid import Grid
from .left_networks import LeftNetwork
from .plan import Run

Map = NDArray[np.float32]


class ArmPictures:
    """Writes ``report/segmentations.png``: slices of test cases, the truth, and the segmentation of each arm.

    The runs are those of the first data set, share of labels, seed and fold with which all arms are run. Their weights
    must lie where the experiment left them. The slice of a case is the one that shows most classes.

    Args:
        grid: The experiment.
        shown_arms: Names of the arms, in the order of the columns.
        shown_cases: Number of test cases, the first by name, at least 1. 3 by default.

    Raises:
        ConfigError: When there is no such arm, or no case is asked for.
    """

    def __init__(self, grid: Grid, shown_arms: Sequence[str], *, shown_cases: int = 3) -> None:
        grid.plan.require_arms(shown_arms, setting="shown_arms")
        if shown_cases < 1:
            raise ConfigError(f"shown_cases is {shown_cases}; accepted are numbers from 1")
        self.grid, self.shown_arms, self.shown_cases = grid, list(shown_arms), shown_cases
        self.path = grid.folder / "report" / "segmentations.png"

    def run(self) -> Path:
        """Segments the cases with every arm and returns the path of the picture.

        Raises:
            ConfigError: When the arms have no run in common.
            MissingDataError: When a run has left no weights.
        """
        found = {}
        for run in self.matching_runs():
            network = LeftNetwork(self.grid, run)
            found[run.arm] = self._segment(network)
        cases = list(next(iter(found.values())).items())
        rows, classes = [], 1
        for name, (image, truth, _) in cases:
            index = most_classes(truth)
            maps = [truth, *(found[arm][name][2] for arm in self.shown_arms)]
            picture = telling_slice(image[..., index : index + 1], truth[..., index : index + 1])[0]
            rows.append((name, picture, [_slice(item, index) for item in maps]))
            classes = max(classes, *(int(item.max()) for item in maps))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draw_side_by_side(rows, ["truth", *self.shown_arms], _names(network.config, classes), self.path)
        return self.path

    def matching_runs(self) -> list[Run]:
        """Returns a run of each arm, all of the same data set, share of labels, dose, seed and fold.

        Raises:
            ConfigError: When there are none.
        """
        places: dict[tuple[Any, ...], dict[str, Run]] = {}
        for run in self.grid.plan.runs():
            places.setdefault((run.dataset, run.labeled, run.dose, run.seed, run.fold), {})[run.arm] = run
        for runs in places.values():
            if runs.keys() >= set(self.shown_arms):
                return [runs[arm] for arm in self.shown_arms]
        raise ConfigError(f"shown_arms names {self.shown_arms}, which no data set, seed and fold have in common")

    def _segment(self, network: LeftNetwork) -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
        """Name of a case -> image, truth and segmentation, class indices, on the CPU."""
        segmented = {}
        for index in range(min(self.shown_cases, len(network.cases))):
            item, logits = network.segment(index)
            channels = torch.as_tensor(item["label"])
            truth = (channels.argmax(dim=0) + 1) * channels.any(dim=0)
            segmented[str(item["case"])] = (torch.as_tensor(item["image"]), truth, logits.argmax(dim=0))
        return segmented


def _names(config: Any, classes: int) -> list[str]:
    """Names of the foreground classes, as far as the data sets tell them."""
    cases, labels = config.get_parsed_content("validate#dataset#data"), config.get("foreground_labels")
    return [class_name(cases, number, labels) for number in range(1, classes + 1)]


def most_classes(label: Tensor) -> int:
    """Returns the slice along the last axis that shows most foreground classes; of those, the one with most voxels.

    Args:
        label: Class indices, ``(H, W, D)``.

    Example:
        >>> most_classes(torch.tensor([[[1, 1, 0], [0, 2, 0], [1, 0, 2]]]))
        1
    """
    slices = label.flatten(0, -2).T
    shown = torch.stack(
        [(slices == index).any(dim=1) for index in range(1, int(label.max()) + 1)] or [slices[:, 0] < 0]
    )
    return int((shown.sum(dim=0) * (slices.shape[1] + 1) + (slices > 0).sum(dim=1)).argmax())


def _slice(label: Tensor, index: int) -> Map:
    """A slice along the last axis."""
    return np.asarray(label[..., index], dtype=np.float32)
