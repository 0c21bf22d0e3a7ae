"""Compares detectors of out-of-distribution scans: same network, same scans, higher scores for more abnormal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from torch import nn

from ..detectors import Case, Catalog, Detector, DetectorCatalog, Measure, Scan, measure_cost
from ..engine.cases import CaseDataset
from ..engine.inference_checks import InferencePreflight
from ..errors import CasesFailedError, NotEnoughCasesError
from ..runtime.digests import settings_digest
from ..runtime.files import write_csv
from ..runtime.progress import Progress
from ..spectral import SpectralInferer, bank_settings
from .described import Described, lacking, read_described, same_cases, write_described
from .detection_report import COLUMNS, SEGMENTATION, TRAINING, write_detection_report

logger = logging.getLogger(__name__)

DIGITS = 7
"""Significant digits of a value in a row."""

Row = dict[str, Any]


class DetectorComparison:
    """Scores training, in- and out-of-distribution cases with every detector and writes rows and their report.

    What was measured of a group of cases is kept below ``output_dir/described``, in a folder for each set of weights
    and settings. A comparison that was ended goes on with the next group; one with further detectors measures of the
    same cases what is missing.

    Args:
        preflight: Check that loads the weights.
        network: Network that segments every case.
        inferer: Inferer whose windows are those of every pass.
        train_data: Training cases, the reference of every detector.
        data: In- and out-of-distribution cases, see ``evaluation_cases``.
        transform: Transform that loads, prepares and damages a case.
        catalog: Detectors that are compared.
        device: Device that the network runs on.
        output_dir: Folder of ``<name>.csv``, of ``report`` and of ``described``.
        name: Name of the experiment and of its rows. Default ``detectors``.
        seed: Seed of the run, as the rows tell it. Default 0.
        cost_scans: Number of in-distribution scans that every measure is taken of once more, alone, to tell its cost;
            with 0 no cost is told. Default 2.
    """

    def __init__(
        self,
        preflight: InferencePreflight,
        network: nn.Module,
        inferer: SpectralInferer,
        train_data: Sequence[dict[str, Any]],
        data: Sequence[dict[str, Any]],
        transform: Any,
        catalog: DetectorCatalog,
        device: torch.device,
        output_dir: str,
        *,
        name: str = "detectors",
        seed: int = 0,
        cost_scans: int = 2,
    ) -> None:
        self.preflight, self.network, self.inferer = preflight, network, inferer
        self.train_data, self.data, self.transform = list(train_data), list(data), transform
        self.catalog, self.device, self.output_dir = catalog, torch.device(device), Path(output_dir)
        self.name, self.seed, self.cost_scans = name, seed, cost_scans

    def run(self) -> list[Row]:
        """Returns the rows of all detectors.

        Raises:
            CasesFailedError: When a case cannot be read; a comparison needs them all.
            NotEnoughCasesError: When there are too few training cases for every detector.
        """
        self.preflight.load()
        self.network.to(self.device).eval()
        made = self.catalog.make(self.network)
        key = self._key()
        training = self._described(TRAINING, self.train_data, made, key, self._describe)
        groups = {
            name: self._described(name, cases, made, key, self._describe) for name, cases in self._groups().items()
        }
        cost = self._cost(made, key)
        fitted = [detector for detector in made.detectors if _fits(detector, training)]
        if not fitted:
            raise NotEnoughCasesError(f"{len(training)} training case(s) are too few for every detector; add cases")
        rows = self._rows(fitted, training, groups, cost)
        columns = {"settings": key[:12], "data": self._data_digest()}
        path = self.output_dir / f"{self.name}.csv"
        write_csv((row | columns for row in rows), COLUMNS, path)
        write_detection_report(path, into=self.output_dir / "report")
        return rows

    def _key(self) -> str:
        """A digest of what decides over all measures: weights, windows, transforms and layers."""
        transforms = getattr(self.transform, "transforms", [self.transform])
        settings = bank_settings(self.inferer, list(transforms), self.inferer.weights_digest(self.network))
        return settings_digest([settings, self.catalog.settings])

    def _data_digest(self) -> str:
        """A digest of which cases were compared."""
        return settings_digest([[case["case"] for case in cases] for cases in (self.train_data, self.data)])[:12]

    def _groups(self) -> dict[str, list[dict[str, Any]]]:
        """Cases by their group, in the order in which groups come first."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for case in self.data:
            groups.setdefault(str(case.get("group", "")), []).append(case)
        return groups

    def _described(
        self,
        name: str,
        cases: Sequence[dict[str, Any]],
        made: Catalog,
        key: str,
        take: Callable[[Mapping[str, Any], Mapping[str, Measure]], Described],
    ) -> list[Described]:
        """What is kept of these cases from earlier runs; what is missing is taken of each, and kept as well."""
        path, stored = self.output_dir / "described" / key[:12] / f"{name}.npz", _stored(made.measures)
        found = read_described(path)
        if found is None or not same_cases(found, cases):
            found = [{} for _ in cases]
        missing = lacking(found, stored)
        if missing:
            loaded = self._load(cases, name)
            found = [earlier | take(case, missing) for earlier, case in zip(found, loaded, strict=True)]
            write_described(found, path)
        names = dict(zip(made.measures, stored, strict=True))
        return [case | {plain: case[kept] for plain, kept in names.items()} for case in found]

    def _load(self, data: Sequence[dict[str, Any]], group: str) -> Any:
        """Cases one by one."""
        loader = DataLoader(CaseDataset(data, self.transform), batch_size=1, num_workers=0)
        with Progress(f"detectors, {group}", len(data), "cases") as progress:
            for case in progress.over(loader):
                if "error" in case:
                    raise CasesFailedError(case["error"][0])
                yield case

    def _scan(self, case: Mapping[str, Any], measures: Sequence[Measure]) -> Scan:
        """A scan whose pass gives what some measures need."""
        layers = [layer for measure in measures for layer in measure.layers]
        pooled = [layer for measure in measures for layer in measure.pooled_layers]
        return Scan(
            torch.as_tensor(case["image"]).to(self.device),
            self.network,
            self.inferer,
            layers=_in_order(self.inferer.feature_layers, layers),
            pooled_layers=_in_order(self.inferer.feature_layers, pooled),
            softmax=self.catalog.softmax,
            label=torch.as_tensor(case["label"]) if "label" in case else None,
            name=str(case["case"][0]),
        )

    def _describe(self, case: Mapping[str, Any], measures: Mapping[str, Measure]) -> Described:
        """Every measure of one case, and the Dice of its segmentation."""
        scan = self._scan(case, list(measures.values()))
        described: Described = {"case": scan.name, "task": str(case["task"][0]) if "task" in case else ""}
        described["inside"] = bool(case["in_distribution"][0]) if "in_distribution" in case else True
        described["dsc"] = scan.dice(scan.outcome.logits)
        return described | {name: measure.take(scan) for name, measure in measures.items()}

    def _cost(self, made: Catalog, key: str) -> dict[str, tuple[float, float]]:
        """Measure -> median seconds and megabytes of a scan, of which nothing else is measured."""
        inside = [case for case in self.data if case.get("in_distribution", True)][: self.cost_scans]
        if not inside:
            return {}
        found = self._described("cost", inside, made, key, self._cost_of)
        return {
            name: tuple(np.median([case[name] for case in found], axis=0).tolist())  # type: ignore[misc]
            for name in (SEGMENTATION, *made.measures)
        }

    def _cost_of(self, case: Mapping[str, Any], measures: Mapping[str, Measure]) -> Described:
        """Seconds and megabytes of every measure, and of the segmentation alone."""
        # What the first pass of all allocates is nobody's cost.
        _segment(self._scan(case, ()))
        plain = self._scan(case, ())
        cost: Described = {
            "case": str(case["case"][0]),
            SEGMENTATION: np.array(measure_cost(lambda: _segment(plain), self.device)),
        }
        for name, measure in measures.items():
            work = _work(measure.take, self._scan(case, [measure]))
            cost[name] = np.array(measure_cost(work, self.device))
        return cost

    def _rows(
        self,
        fitted: Sequence[Detector],
        training: Sequence[Case],
        groups: Mapping[str, Sequence[Case]],
        cost: Mapping[str, tuple[float, float]],
    ) -> list[Row]:
        """Rows in long format: Dice and scores of every case, thresholds and costs."""
        dataset = "+".join(dict.fromkeys(str(case.get("task", "")) for case in self.train_data))
        shared = {"experiment": self.name, "dataset": dataset, "seed": self.seed}

        def row(arm: str, metric: str, value: float, case: str = "", group: str = "", inside: Any = "") -> Row:
            cell = {"arm": arm, "case": case, "metric": metric, "value": f"{value:.{DIGITS}g}"}
            return shared | cell | {"group": group, "in_distribution": inside}

        cases = [(group, case) for group, members in groups.items() for case in members]
        rows = [row(SEGMENTATION, "dsc", case["dsc"], case["case"], group, case["inside"])
                for group, case in cases if not math.isnan(case["dsc"])]  # fmt: skip
        rows += _cost_rows(row, SEGMENTATION, cost.get(SEGMENTATION), 0.0)
        for detector in fitted:
            start = time.perf_counter()
            scores = [detector.score(case) for _, case in cases]
            each = (time.perf_counter() - start) / max(1, len(cases))
            rows.append(row(detector.name, "threshold", detector.threshold_))
            rows += _cost_rows(row, detector.name, cost.get(detector.measure), each)
            rows += [row(detector.name, "score", score, str(number), TRAINING)
                     for number, score in enumerate(detector.training_scores_)]  # fmt: skip
            for (group, case), score in zip(cases, scores, strict=True):
                rows.append(row(detector.name, "score", score, case["case"], group, case["inside"]))
                if detector.own_network and math.isfinite(case[detector.measure][1]):
                    own = float(case[detector.measure][1])
                    rows.append(row(detector.name, "dsc", own, case["case"], group, case["inside"]))
        return rows


def _cost_rows(row: Callable[..., Row], arm: str, cost: tuple[float, float] | None, scoring: float) -> list[Row]:
    """Rows of seconds and megabytes of a scan, as far as they are told."""
    if cost is None:
        return []
    named = {"seconds_per_scan": cost[0] + scoring, "megabytes_per_scan": cost[1]}
    return [row(arm, metric, value) for metric, value in named.items() if not math.isnan(value)]


def _fits(detector: Detector, training: Sequence[Case]) -> bool:
    """Fits a detector; tells where it does not apply."""
    try:
        detector.fit(training)
    except NotEnoughCasesError as error:
        logger.warning("%s is left out: %s", detector.name, error)
        return False
    return True


def _in_order(layers: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted layers, each once, those of the inferer in its order."""
    return tuple(dict.fromkeys([*(layer for layer in layers if layer in wanted), *wanted]))


def _stored(measures: Mapping[str, Measure]) -> dict[str, Measure]:
    """Measures by the names that they are kept by, which tell the settings that decide over them alone."""
    return {f"{name}@{measure.settings}" if measure.settings else name: measure for name, measure in measures.items()}


def _segment(scan: Scan) -> None:
    """Runs the pass of a scan."""
    assert scan.outcome.logits.ndim > 2


def _work(take: Callable[[Scan], Any], scan: Scan) -> Callable[[], Any]:
    """A measure of a scan, as work to be timed."""
    return lambda: take(scan)
