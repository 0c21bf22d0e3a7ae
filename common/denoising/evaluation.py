"""Compares what network and denoiser find in the same labeled slices, patient by patient."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MissingDataError
from ..runtime.files import write_csv, write_json
from ..runtime.weights import load_weights
from .curve import figures_text
from .foreground import THRESHOLD
from .gallery import draw_anomaly_maps
from .localization import by_patient, localize_anomalies, measure_patients, network_scorer
from .slice_datasets import SliceDataset
from .training import MAPS, REPORT

logger = logging.getLogger(__name__)


class PatientEvaluation:
    """Measures the network, and the denoiser where there is one, over all labeled slices.

    Writes ``localization.json``, ``patients.csv`` (Dice of every patient) and, with a denoiser, ``anomaly_maps.png``.
    Holzschuh et al., MIDL 2023, section 3: average precision and best Dice in the binary case, Dice per patient.

    Args:
        dataset: Labeled slices; others are passed over.
        network: Network that takes the weights.
        weights_file: Path of the network's weights.
        denoiser: Network that takes the weights of the denoiser.
        denoiser_file: Path of the denoiser's weights. Where the file does not exist, nothing is said of a denoiser.
        device: Device that both run on.
        output_dir: Folder of the results.
        foreground_threshold: Threshold of the foreground, see :func:`foreground_mask`. 0.01 by default.
        bright_channel: Channel in which what is abnormal is brighter, see :func:`anomaly_score`. None by default.
        min_component_size: Size of the smallest component that stays where small ones are removed, in voxels. 20 by
            default.
        pictures: Largest number of patients shown in ``anomaly_maps.png``. 8 by default.
    """

    def __init__(
        self,
        dataset: SliceDataset,
        network: nn.Module,
        weights_file: str,
        denoiser: nn.Module,
        denoiser_file: str,
        device: torch.device,
        output_dir: str,
        *,
        foreground_threshold: float = THRESHOLD,
        bright_channel: int | None = None,
        min_component_size: int = 20,
        pictures: int = 8,
    ) -> None:
        self.dataset, self.network, self.denoiser = dataset, network, denoiser
        self.weights_file, self.denoiser_file = Path(weights_file), Path(denoiser_file)
        self.device, self.output_dir = torch.device(device), Path(output_dir)
        self.scoring: dict[str, Any] = {"foreground_threshold": foreground_threshold, "bright_channel": bright_channel}
        self.min_size = min_component_size
        self.pictures = pictures

    def run(self) -> dict[str, Any]:
        """Returns what ``localization.json`` says of ``network`` and ``denoiser``, as far as they have weights.

        See :func:`measure_scores`. Its ``measures`` are those of the network or, without one, of the denoiser.

        Raises:
            MissingDataError: When there are no weights.
            WeightsError: When weights belong to another network.
        """
        if not any("label" in case for case in self.dataset.data):
            return {}
        report: dict[str, Any] = {}
        if self.weights_file.is_file() or not self.denoiser_file.is_file():
            report["network"] = self.measure_network()
        if self.denoiser_file.is_file():
            report["denoiser"] = self.measure_denoiser()
            look: dict[str, Any] = {**self.scoring, "pictures": self.pictures}
            place = self.output_dir / MAPS
            draw_anomaly_maps(self.dataset, self.denoiser, self.device, place, **look)
        write_json(report | {"measures": _measures(next(iter(report.values())))}, self.output_dir / REPORT)
        columns = ["patient", "dice", "dice_filtered", "dice_denoiser"]
        write_csv(_rows(report), columns, self.output_dir / "patients.csv")
        for name, figures in report.items():
            logger.info("%s: %s", name, figures_text(figures))
        return report

    def measure_network(self) -> dict[str, Any]:
        """Returns what the network's probability of foreground, and its classes, are worth."""
        load_weights(self.network, self.weights_file, device=self.device)
        network = self.network.to(self.device).eval()
        patients = by_patient(self.dataset)
        return measure_patients("segmentation", patients, network_scorer(network), self.device, min_size=self.min_size)

    def measure_denoiser(self, *, baselines: bool = True) -> dict[str, Any]:
        """Returns what the denoiser's anomaly score is worth.

        Args:
            baselines: Whether the channels are measured as well. True by default.

        Raises:
            MissingDataError: When there is no denoiser.
        """
        if not self.denoiser_file.is_file():
            raise MissingDataError(f"no denoiser at {self.denoiser_file}; train with pretrained true")
        load_weights(self.denoiser, self.denoiser_file, device=self.device)
        settings: dict[str, Any] = {**self.scoring, "baselines": baselines, "min_size": self.min_size}
        return localize_anomalies(self.dataset, self.denoiser, self.device, **settings)


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each patient."""
    denoised = report.get("denoiser", {}).get("dice_per_patient", {}).get("values", {})
    found = report.get("network", {}).get("segmentation", {})
    plain, filtered = (
        part.get("dice_per_patient", {}).get("values", {}) for part in (found, found.get("filtered", {}))
    )
    return [
        {
            "patient": name,
            "dice": plain.get(name),
            "dice_filtered": filtered.get(name),
            "dice_denoiser": denoised.get(name),
        }
        for name in plain or denoised
    ]


def _measures(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Metric -> patient -> value, with ``""`` for the whole set: what experiments compare."""
    found = figures.get("segmentation", figures)
    patients = found["dice_per_patient"]["values"] | {"": found.get("dice_pooled", math.nan)}
    whole = {"ap": figures["average_precision"], "dsc_best": figures["best_dice"]}
    named = {"dsc": patients} | {name: {"": value} for name, value in whole.items()}
    return {name: {k: v for k, v in values.items() if not math.isnan(v)} for name, values in named.items()}
