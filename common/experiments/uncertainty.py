"""Draws where networks of an experiment are unsure, beside where they are wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, MissingDataError
from ..figures import draw_uncertainty
from ..figures.slices import telling_slice
from ..metrics.segmentation import THRESHOLD, count_overlap, pooled_overlap_dice
from .bundle_runs import EVALUATION
from .grid import Grid
from .left_networks import LeftNetwork
from .plan import Run

Map = NDArray[np.float32]


def binary_entropy(probability: Tensor) -> Tensor:
    """Returns the entropy of foreground against background, in bits: 0 where it is sure, 1 at a probability of 0.5.

    Args:
        probability: Foreground probabilities in [0, 1], of any shape.

    Example:
        >>> binary_entropy(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0.0, 1.0, 0.0]
    """
    return (torch.special.entr(probability) + torch.special.entr(1 - probability)) / math.log(2)


class UncertaintyPictures:
    """Writes ``report/uncertainty.png``: for each data set a test case, and where the network of each arm is unsure.

    The case is the one of the first fold that the first arm segments worst, as the paper shows such cases. For networks
    with one sigmoid channel. Weights must lie where the experiment left them.

    Args:
        grid: The experiment.
        shown_arms: Names of the arms, in the order of the columns.

    Raises:
        ConfigError: When there is no such arm.
    """

    def __init__(self, grid: Grid, shown_arms: Sequence[str]) -> None:
        grid.plan.require_arms(shown_arms, setting="shown_arms")
        self.grid, self.shown_arms = grid, list(shown_arms)
        self.path = grid.folder / "report" / "uncertainty.png"

    def run(self) -> Path:
        """Segments the cases and returns the path of the picture.

        Raises:
            ConfigError: When an arm has no run on a data set.
            MissingDataError: When a run has left no weights or no evaluation.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draw_uncertainty([self._row(name) for name in self.grid.plan.datasets], self.path)
        return self.path

    def _row(self, dataset: str) -> tuple[str, Map, Map, list[tuple[str, Map, Map]]]:
        """Name, slice and truth of a case, and title, entropy and errors of each arm."""
        runs = [self._first_run(arm, dataset) for arm in self.shown_arms]
        case, panels = self._worst_case(runs[0]), []
        for arm, run in zip(self.shown_arms, runs, strict=True):
            network = LeftNetwork(self.grid, run, settings=self.grid.plan.datasets[dataset])
            names = [str(found["case"]) for found in network.config.get_parsed_content("validate#dataset#data")]
            item, logits = network.segment(names.index(case))
            image, truth = (torch.as_tensor(item[key]) for key in ("image", "label"))
            probability = logits.float().sigmoid()
            wrong = (probability > THRESHOLD) != (truth > 0)
            dice = pooled_overlap_dice([count_overlap(probability > THRESHOLD, truth)])
            picture, outline = telling_slice(image, truth)
            unsure = _slice(binary_entropy(probability), truth)
            panels.append((f"{arm}, Dice {dice:.2f}", unsure, _slice(wrong, truth)))
        return f"{dataset}: {case}", picture, outline, panels

    def _first_run(self, arm: str, dataset: str) -> Run:
        """The first run of an arm that is tested on a data set."""
        for run in self.grid.plan.runs():
            if run.arm == arm and (run.together or run.dataset == dataset):
                return run
        raise ConfigError(f"arm {arm!r} has no run on {dataset!r}; leave it out of shown_arms")

    def _worst_case(self, run: Run) -> str:
        """Name of the test case that a run segments worst."""
        file = self.grid.folder_of(run) / EVALUATION / "metrics.json"
        try:
            dices = json.loads(file.read_text(encoding="utf-8"))["segmentation"]["dsc"]["per_case"]
        except (OSError, ValueError, KeyError) as error:
            raise MissingDataError(f"{file} cannot be read ({error}); run the experiment first") from error
        return min((name for name, dice in dices.items() if dice is not None), key=dices.__getitem__)


def _slice(volume: Tensor, truth: Tensor) -> Map:
    """The slice of a volume that shows most of the truth."""
    return telling_slice(volume.float(), truth)[0]
