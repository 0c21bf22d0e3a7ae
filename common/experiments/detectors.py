"""Compares detectors of out-of-distribution scans: same network, same scans, higher scores for more abnormal.

Compared are the spectral signature in several forms and intensity histograms (Vasiliuk et al., 2023). So are PCA and
Mahalanobis distance on pooled bottleneck features (Woodland et al., MELBA 2024), and the entropy of the predicted
foreground.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from monai.metrics import compute_dice
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ..engine.cases import CaseDataset
from ..engine.inference_checks import InferencePreflight
from ..errors import CasesFailedError
from ..figures import draw_table
from ..metrics.detection import detection_metrics
from ..metrics.statistics import spearman, summarize
from ..runtime.files import write_csv, write_json
from ..runtime.progress import Progress
from ..spectral import SignatureBank, SpectralInferer
from ..spectral.distance import Distance, distance_to

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


def intensity_histogram(image: Tensor, *, bins: int = 150, low: float = -2.0, high: float = 10.0) -> Array:
    """Returns the share of voxels in each of ``bins`` equal bins; values outside ``[low, high]`` count at the ends."""
    counts = torch.histc(image.float().clamp(low, high).cpu(), bins=bins, min=low, max=high)
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def foreground_entropy(logits: Tensor) -> float:
    """Returns the mean binary entropy, in nats, over the predicted foreground, or ``ln 2``, the most, without one."""
    probability = logits.double().sigmoid()
    chosen = probability[probability > 0.5]
    if chosen.numel() == 0:
        return math.log(2)
    return float(-(chosen.xlogy(chosen) + (1 - chosen).xlogy(1 - chosen)).mean())


def pca_mahalanobis(features: Array, reference: Array, *, variance: float = 0.95) -> Array:
    """Returns the Mahalanobis distance in the principal components that hold ``variance`` of the reference's variance.

    Args:
        features: Features of the cases to judge, ``(M, D)``.
        reference: Features of the training cases, ``(K, D)``.
        variance: Share of the variance that is kept, in (0, 1). Default 0.95.

    Returns:
        ``(M,)``; higher means more abnormal.
    """
    analysis = PCA(n_components=variance, whiten=True).fit(reference)
    return np.asarray(np.linalg.norm(analysis.transform(features), axis=1))


class DetectorComparison:
    """Scores training, in- and out-of-distribution cases with every detector and writes the table.

    Args:
        preflight: Check that loads the weights.
        network: Network that segments every case.
        inferer: Inferer that computes signatures. Its layers are those of the ``all layers`` variants, the last one
            that of the paper.
        train_data: Training cases, the reference of every detector.
        data: In- and out-of-distribution cases, see ``evaluation_cases``.
        transform: Transform that loads, prepares and damages a case.
        bottleneck_layer: Name of the layer whose features are pooled.
        device: Device that the network runs on.
        output_dir: Folder of ``comparison.csv``, ``comparison.json`` and ``comparison.png``.
    """

    def __init__(
        self,
        preflight: InferencePreflight,
        network: nn.Module,
        inferer: SpectralInferer,
        train_data: Sequence[dict[str, Any]],
        data: Sequence[dict[str, Any]],
        transform: Any,
        bottleneck_layer: str,
        device: torch.device,
        output_dir: str,
    ) -> None:
        self.preflight, self.network, self.inferer = preflight, network, inferer
        self.train_data, self.data, self.transform = train_data, data, transform
        self.bottleneck_layer, self.device, self.output_dir = bottleneck_layer, device, Path(output_dir)

    def run(self) -> dict[str, Any]:
        """Returns detector -> group -> AUC, with false alarms and rank correlation.

        Raises:
            CasesFailedError: When a case cannot be read; a comparison needs them all.
        """
        self.preflight.load()
        self.network.to(self.device).eval()
        reference = [self._describe(case) for case in self._load(self.train_data)]
        described = [self._describe(case) for case in self._load(self.data)]
        scores = self._score(reference, described)
        report = self._tabulate(scores, described)
        self._write(report)
        return report

    def _load(self, data: Sequence[dict[str, Any]]) -> Any:
        """Cases one by one."""
        loader = DataLoader(CaseDataset(data, self.transform), batch_size=1, num_workers=0)
        with Progress("detectors", len(data), "cases") as progress:
            for case in progress.over(loader):
                if "error" in case:
                    raise CasesFailedError(case["error"][0])
                yield case

    @torch.no_grad()
    def _describe(self, case: dict[str, Any]) -> dict[str, Any]:
        """Everything that any detector needs of one case."""
        image, pooled = case["image"].to(self.device), []
        hook = self.network.get_submodule(self.bottleneck_layer).register_forward_hook(
            lambda _module, _inputs, output: pooled.append(output.flatten(2).mean(dim=2))
        )
        with hook:
            logits, collector = self.inferer.collect(image, self.network)
        dice = math.nan
        if "label" in case:
            predicted, truth = logits.sigmoid().cpu() > 0.5, torch.as_tensor(case["label"]) > 0
            dice = float(compute_dice(predicted, truth, ignore_empty=True).mean())
        last = self.inferer.feature_layers[-1:]
        return {
            "group": case["group"][0] if case.get("group") else "",
            "inside": bool(case["in_distribution"][0]) if "in_distribution" in case else True,
            "dsc": dice,
            "entropy": foreground_entropy(logits),
            "histogram": intensity_histogram(image),
            "bottleneck": np.asarray(torch.cat(pooled).mean(dim=0).double().cpu()),
            "last": collector.signatures(1, per_voxel=False, layers=last)[0].numpy(),
            "last, per voxel": collector.signatures(1, per_voxel=True, layers=last)[0].numpy(),
            "all": collector.signatures(1, per_voxel=False)[0].numpy(),
            "all, per voxel": collector.signatures(1, per_voxel=True)[0].numpy(),
        }

    def _score(
        self, reference: Sequence[dict[str, Any]], described: Sequence[dict[str, Any]]
    ) -> dict[str, tuple[Array, float]]:
        """Detector -> scores of the described cases, threshold (mean + 2.5 std over the training cases)."""

        def rows(cases: Sequence[dict[str, Any]], name: str) -> Array:
            return np.stack([np.atleast_1d(case[name]) for case in cases])

        scores: dict[str, tuple[Array, float]] = {}
        distances: tuple[Distance, ...] = ("nearest", "mahalanobis")
        for form in ("last", "last, per voxel", "all", "all, per voxel"):
            for distance in distances:
                bank = SignatureBank.fit(rows(reference, form), distance=distance)
                name = f"signature, {form.replace('all', 'all layers').replace('last', 'last layer')}, {distance}"
                scores[name] = (distance_to(rows(described, form), bank.signatures, distance), bank.threshold)
        for form, name in (("histogram", "intensity histogram"), ("bottleneck", "pooled bottleneck features")):
            training = rows(reference, form)
            own = pca_mahalanobis(training, training)
            scores[name] = (pca_mahalanobis(rows(described, form), training), float(own.mean() + 2.5 * own.std()))
        own = rows(reference, "entropy")[:, 0]
        scores["foreground entropy"] = (rows(described, "entropy")[:, 0], float(own.mean() + 2.5 * own.std()))
        return scores

    @staticmethod
    def _tabulate(scores: Mapping[str, tuple[Array, float]], described: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """AUC of every detector against every OOD group, its worst and mean, false alarms and rank correlation."""
        inside = np.array([case["inside"] for case in described])
        groups = np.array([case["group"] for case in described])
        dice = np.array([case["dsc"] for case in described])
        outside = list(dict.fromkeys(groups[~inside].tolist()))
        report: dict[str, Any] = {
            "dice": {"in_distribution": summarize(dice[inside].tolist())["mean"]},
            "detectors": {},
        }
        report["dice"] |= {group: summarize(dice[(groups == group) & ~inside].tolist())["mean"] for group in outside}
        for name, (values, threshold) in scores.items():
            aucs = {
                group: detection_metrics(values[inside], values[(groups == group) & ~inside], threshold)["auc"]
                for group in outside
            }
            report["detectors"][name] = {
                "auc": aucs,
                "worst": min(aucs.values(), default=None),
                "mean": float(np.mean(list(aucs.values()))) if aucs else None,
                "false_alarms": float((values[inside] > threshold).mean()),
                "rank_correlation_dsc": spearman(values, dice)["rho"],
            }
        return report

    def _write(self, report: Mapping[str, Any]) -> None:
        """JSON, CSV and picture of the table."""
        write_json(report, self.output_dir / "comparison.json")
        groups = [group for group in report["dice"] if group != "in_distribution"]
        extra = ("worst", "mean", "false_alarms", "rank_correlation_dsc")
        header = ["detector", *groups, *extra]
        lines: list[list[Any]] = [["mean DSC", *[report["dice"][group] for group in groups], *[""] * len(extra)]]
        for name, figures in report["detectors"].items():
            lines.append([name, *[figures["auc"][group] for group in groups], *[figures[key] for key in extra]])
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        write_csv(rows, header, self.output_dir / "comparison.csv")
        draw_table(header, lines, self.output_dir / "comparison.png")
        for line in [header, *lines]:
            logger.info("%s", " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in line))
