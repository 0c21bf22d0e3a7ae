"""Opens the networks that the runs of an experiment have left, with the cases that they are tested on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDataError
from ..runtime.weights import load_weights
from .bundle_runs import weights_in
from .grid import Grid
from .plan import Run


class LeftNetwork:
    """A network that a run has left, ready to segment the test cases of the run.

    Args:
        grid: The experiment, whose ``output_dir`` holds the weights.
        run: Run that has left the network.
        settings: Options of ``evaluate.json`` in place of those of the run, such as one of its data sets. Default none.

    Raises:
        MissingDataError: When the run has left no weights.
    """

    def __init__(self, grid: Grid, run: Run, *, settings: Mapping[str, Any] | None = None) -> None:
        folder = grid.folder_of(run)
        weights = weights_in(folder)
        if not weights.is_file():
            raise MissingDataError(f"{weights} does not exist; run the experiment first, in the same output_dir")
        if grid.bundle.root not in sys.path:
            sys.path.insert(0, grid.bundle.root)
        options = {**run.settings, **grid.places, **(settings or {})}
        options |= {"split_file": f"{folder}/split.json", "model_dir": str(weights.parent)}
        self.config = grid.bundle.parse("evaluate", run, options)
        self.cases = self.config.get_parsed_content("validate#dataset")
        self.network, self.inferer = (self.config.get_parsed_content(key) for key in ("network", "inferer"))
        self.device = torch.device(self.config.get_parsed_content("device"))
        load_weights(self.network, str(weights), device=self.device)
        self.network.eval()

    def segment(self, index: int) -> tuple[Mapping[str, Any], Tensor]:
        """Returns a test case as it is prepared, and the logits of it, ``(K, H, W[, D])``, on the CPU.

        Args:
            index: Number of the test case, from 0.
        """
        item = self.cases[index]
        image = torch.as_tensor(item["image"])[None].to(self.device)
        with torch.no_grad():
            logits = self.inferer.without_signature()(image, self.network)
        return item, logits[0].cpu()
