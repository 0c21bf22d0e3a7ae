"""Measures the cases that a bank is fitted to: signatures, properties, and the Dice of damaged scans."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import FeatureError
from ..metrics.segmentation import mean_class_dice
from ..runtime.distributed import process_rank, world_size
from ..runtime.progress import Progress
from ..transforms.damage import DamageScand
from ..transforms.scan import scan_name
from .distance import Array
from .inferer import SpectralInferer
from .properties import ScanProperties, measure_properties

QUALITY_DAMAGES = ("noise_0.3", "noise_0.6", "gamma_2", "inversion", "blur_1", "blur_2", "thick_slices_3", "bias_field")
"""Damages that the prediction of Dice learns from; others are left to test it with."""

Record = TypeVar("Record")


class Items(Protocol):
    """Prepared cases, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class MeasuredScan:
    """What a training case contributes to a bank.

    Args:
        signature: Signature, ``(D,)``.
        layer_sizes: Numbers that each layer has in it.
        properties: Plain properties.
    """

    signature: Array
    layer_sizes: tuple[int, ...]
    properties: ScanProperties


@dataclass(frozen=True)
class GradedScan:
    """What the prediction of Dice learns from one segmentation.

    Args:
        signature: Signature, ``(D,)``.
        uncertainty: How unsure the network is of the segmentation, see :class:`SpectralInferer`.
        dice: Dice of the segmentation.
    """

    signature: Array
    uncertainty: float
    dice: float


@dataclass(frozen=True)
class MeasuredQuality:
    """What a held-out case contributes to a bank.

    Args:
        patient: What tells its patient.
        signature: Signature, ``(D,)``.
        graded: The scan as it is and after each damage; empty where its quality was not measured.
        is_empty: Whether its label holds no foreground, as a slice without a tumor does.
    """

    patient: str
    signature: Array
    graded: tuple[GradedScan, ...]
    is_empty: bool


@dataclass(frozen=True)
class SegmentedScan:
    """What a network makes of a scan.

    Args:
        logits: Logits, ``(K, H, W[, D])``.
        signature: Signature, ``(D,)``.
        uncertainty: How unsure the network is of the segmentation, see :class:`SpectralInferer`.
    """

    logits: Tensor
    signature: Array
    uncertainty: float


def share_out(
    title: str, cases: Sequence[Any], items: Items, work: Callable[[int, Mapping[str, Any]], Record]
) -> list[Record]:
    """Returns what a function makes of every case, in the order of the cases; all processes share the work.

    Args:
        title: Name of the work, for the line of progress.
        cases: Descriptions of the cases, for messages; every process gives the same list.
        items: Prepared cases, in the same order.
        work: Function of the number of a case and its item.

    Raises:
        FeatureError: When the features of a case have no signature, naming the case.
    """
    mine = list(range(len(cases)))[process_rank() :: world_size()]
    records: list[tuple[int, Record]] = []
    with Progress(title, len(mine), "cases") as progress, torch.no_grad():
        for number in progress.over(mine):
            try:
                records.append((number, work(number, items[number])))
            except FeatureError as error:
                raise FeatureError(f"{scan_name(cases[number])}: {error}") from error
    if world_size() > 1:
        gathered: list[Any] = [None] * world_size()
        dist.all_gather_object(gathered, records)
        records = [record for part in gathered for record in part]
    return [record for _, record in sorted(records, key=lambda pair: pair[0])]


class ScanMeasurer:
    """Runs a network over prepared scans.

    Args:
        network: Trained network, in evaluation mode.
        inferer: Inferer that computes signatures.
        device: Device that the network runs on. ``None``, the default, where the scans are there already.
    """

    def __init__(self, network: nn.Module, inferer: SpectralInferer, device: torch.device | None = None) -> None:
        self.network, self.inferer, self.device = network, inferer, device

    def signature(self, image: Tensor) -> Array:
        """Returns the signature ``(D,)`` of a prepared image ``(C, H, W[, D])``."""
        return self.segment(image).signature

    def segment(self, image: Tensor) -> SegmentedScan:
        """Returns the segmentation of a prepared image ``(C, H, W[, D])``."""
        result = self.inferer(self._batch(image), self.network)
        return SegmentedScan(result["logits"][0], result["signature"][0].numpy(), float(result["uncertainty"]))

    def scan(self, image: Tensor, case: Mapping[Any, Any]) -> MeasuredScan:
        """Returns what a training case contributes."""
        result = self.inferer(self._batch(image), self.network)
        sizes = tuple(result["layer_sizes"][0].tolist())
        return MeasuredScan(result["signature"][0].numpy(), sizes, measure_properties(image, case))

    def _batch(self, image: Tensor) -> Tensor:
        """A batch of one image, on the network's device."""
        batch = torch.as_tensor(image).as_subclass(Tensor)[None]
        return batch if self.device is None else batch.to(self.device)


class QualityMeasurer:
    """Measures held-out cases, and of some of them the Dice, undamaged and after each damage.

    Args:
        measurer: Network and inferer.
        cases: Descriptions of the cases.
        patients: What tells the patient of each case.
        quality_cases: Most cases whose Dice is measured, from 0; spread over the patients.
        postprocessing: Transform that turns the logits ``pred`` into masks or class numbers. With ``None``, the
            default, no Dice is measured.
        damages: Names of the damages. Default :data:`QUALITY_DAMAGES`.
    """

    def __init__(
        self,
        measurer: ScanMeasurer,
        cases: Sequence[Mapping[Any, Any]],
        patients: Sequence[str],
        quality_cases: int,
        postprocessing: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        damages: Sequence[str] = QUALITY_DAMAGES,
    ) -> None:
        self.measurer, self.cases, self.patients = measurer, cases, patients
        self.postprocessing, self.damage = postprocessing, DamageScand("image")
        self.damages = tuple(damages)
        # Each process takes its share of the cases, and so of the patients.
        self.left = math.ceil(quality_cases / world_size()) if postprocessing is not None else 0
        self.each = math.ceil(quality_cases / max(1, len(set(patients))))
        self.taken: Counter[str] = Counter()

    def __call__(self, number: int, item: Mapping[str, Any]) -> MeasuredQuality:
        """Returns what a case contributes."""
        patient, image, label = self.patients[number], item["image"], item.get("label")
        undamaged = self.measurer.segment(image)
        graded: tuple[GradedScan, ...] = ()
        is_empty = isinstance(label, Tensor) and not bool((label > 0).any())
        if isinstance(label, Tensor) and not is_empty and self.left and self.taken[patient] < self.each:
            self.left -= 1
            self.taken[patient] += 1
            graded = tuple(self._grade(scan, label) for scan in chain([undamaged], self._damage(number, image)))
        return MeasuredQuality(patient, undamaged.signature, graded, is_empty)

    def _damage(self, number: int, image: Tensor) -> Iterator[SegmentedScan]:
        """Segmentations of a scan after each damage, one by one."""
        named: dict[Hashable, Any] = {
            "case": self.cases[number].get("case", number),
            "image": torch.as_tensor(image).as_subclass(Tensor),
        }
        for name in self.damages:
            yield self.measurer.segment(self.damage(named | {"damage": name})["image"])

    def _grade(self, scan: SegmentedScan, label: Tensor) -> GradedScan:
        """A segmentation with its Dice, averaged over the classes of its label."""
        assert self.postprocessing is not None
        pred = torch.as_tensor(self.postprocessing({"pred": scan.logits})["pred"])
        dice = mean_class_dice(pred.cpu(), torch.as_tensor(label).cpu())
        return GradedScan(scan.signature, scan.uncertainty, dice)
