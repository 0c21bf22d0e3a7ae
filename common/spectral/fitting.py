"""Fits the signature bank of a trained network to its training cases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch import Tensor, nn

from ..data.split import patient_of
from ..errors import ConfigError, NotEnoughCasesError
from ..runtime.distributed import is_main_process, wait_for_all
from ..runtime.model_settings import SettingsWriter
from ..runtime.tables import number_text
from ..runtime.weights import load_weights
from .bank import SignatureBank
from .choosing import choose_inferer
from .digest import bank_settings
from .distance import Distance
from .held_out import HeldOut
from .inferer import SpectralInferer
from .measuring import Items, MeasuredQuality, MeasuredScan, QualityMeasurer, ScanMeasurer, share_out
from .quality import MIN_PATIENTS, QualityCurve, check_coverage, patients_needed, quality_score
from .ranges import PropertyRanges
from .signature import SignatureForm

logger = logging.getLogger(__name__)


def fit_bank(
    network: nn.Module,
    scans: Iterable[Tensor],
    *,
    roi_size: Sequence[int],
    layers: Sequence[str] | None = None,
    overlap: float = 0.25,
    divisor: int | Sequence[int] | None = None,
    per_voxel: bool = True,
    signature_form: SignatureForm = "full",
    sigmoid: bool | None = None,
    held_out: Iterable[Tensor] = (),
    image_transforms: Sequence[Any] = (),
    c: float = 2.5,
    false_alarm_rate: float | None = None,
    distance: Distance = "clusters",
) -> SignatureBank:
    """Returns the bank of the given training scans, bound to the network's weights and to all settings.

    Args:
        network: Trained network; in evaluation mode afterwards.
        scans: Training scans, each ``(C, H, W[, D])``, prepared as for the network, on the network's device.
        roi_size: Sliding window, in voxels along each axis, as for the network's own inference.
        layers: Names of the feature layers, see :func:`choose_inferer`. By default, the first and the last feature map
            and ``image``.
        overlap: Share of a window that the next one covers again, in [0, 1). Default 0.25.
        divisor: Number of voxels of which window sizes are multiples, see :func:`choose_inferer`. By default, the
            window stays as it is.
        per_voxel: Whether the size of an image does not count. Default true.
        signature_form: ``unit`` (the paper) or ``full``, the default.
        sigmoid: Whether each channel of the logits is a class by itself. ``None``, the default, where there is but one.
        held_out: Scans of further patients, one of each, which trained no weights; p-values are calibrated on them.
            Default none.
        image_transforms: Transforms that have prepared the scans; the bank is bound to them. Default none.
        c: Standard deviations above the mean leave-one-out OODM at which the threshold lies, from 0 to 10. Default 2.5.
        false_alarm_rate: Promised share of false alarms, above 0, below 1; ``None``, the default, for the rule of
            ``c``.
        distance: ``nearest`` (the paper), ``mahalanobis``, ``ledoit_wolf`` or ``clusters``, the default.

    Raises:
        ConfigError: When the network cannot be run on such a window alone, or a setting is not accepted.
        FeatureError: When the features of a scan have no signature.
        NotEnoughCasesError: When there are fewer than two distinct signatures (three unless ``distance`` is
            ``nearest``), or too few to keep ``false_alarm_rate``.
    """
    given = iter(scans)
    first = next(given, None)
    if first is None:
        raise NotEnoughCasesError("no training scan: a signature bank needs at least two; add scans")
    chosen: dict[str, Any] = {"overlap": overlap, "divisor": divisor, "per_voxel": per_voxel, "sigmoid": sigmoid}
    chosen |= {"layers": layers, "signature_form": signature_form}
    inferer = choose_inferer(network, len(first), roi_size=roi_size, **chosen)
    with torch.no_grad():
        measurer = ScanMeasurer(network, inferer)
        measured = [measurer.scan(scan, {}) for scan in chain([first], given)]
        calibration = HeldOut.of([measurer.signature(scan) for scan in held_out])
    settings = bank_settings(inferer, image_transforms, inferer.weights_digest(network))
    signatures = [scan.signature for scan in measured]
    rules: dict[str, Any] = {"c": c, "false_alarm_rate": false_alarm_rate, "distance": distance}
    rules["layer_sizes"] = measured[0].layer_sizes
    bank = SignatureBank.fit(signatures, held_out=calibration, **rules, **settings)
    return replace(bank, ranges=PropertyRanges.of([scan.properties for scan in measured]))


class BankFitter:
    """Computes the signatures of the training cases with the best weights and writes the bank bound to them.

    Cases that trained no weights calibrate p-values. Of some that are labeled, damaged copies are segmented too: from
    their OODM and Dice comes the prediction of Dice.

    Args:
        data: Training cases.
        load_transforms: Transforms that load and check an image.
        image_transforms: Transforms that prepare an image after loading; the bank is bound to the settings of these.
        network: Network that takes the best weights.
        inferer: Inferer that computes signatures.
        device: Device that the network runs on.
        save_dir: Folder of ``model.pt``, the best weights, which the bank is bound to; ``signature_bank.npz`` is
            written there too.
        held_out: Prepared cases that trained no weights, such as those of the validation. Default none.
        held_out_cases: Descriptions of these, in the same order. Default none.
        postprocessing: Transform that turns the logits ``pred`` of a held-out case into what its ``label`` holds.
            With ``None``, the default, no Dice is predicted.
        threshold_c: Standard deviations above the mean leave-one-out OODM at which the threshold lies, the paper's C,
            from 0 to 10. Default 2.5.
        false_alarm_rate: Promised share of false alarms, above 0, below 1; ``None``, the default, for the rule of
            ``threshold_c``.
        quality_cases: Most held-out cases whose Dice is measured, with eight damages each, from 0; 0 switches it off.
            Default 20.
        coverage: Share of scans whose Dice shall reach its lower bound, above 0, below 1. Default 0.9.
        distance: ``nearest`` (the paper, and the default), ``mahalanobis``, ``ledoit_wolf`` or ``clusters``.
        settings_writer: Writes the settings of the bank beside it, which are the defaults of later runs. Default none.

    Raises:
        ConfigError: When ``quality_cases`` or ``coverage`` is out of its range.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        load_transforms: Sequence[Any],
        image_transforms: Sequence[Any],
        network: nn.Module,
        inferer: SpectralInferer,
        device: torch.device,
        save_dir: str | Path,
        *,
        held_out: Items | None = None,
        held_out_cases: Sequence[Mapping[Any, Any]] = (),
        postprocessing: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        threshold_c: float = 2.5,
        false_alarm_rate: float | None = None,
        quality_cases: int = 20,
        coverage: float = 0.9,
        distance: Distance = "nearest",
        settings_writer: SettingsWriter | None = None,
    ) -> None:
        if not isinstance(quality_cases, int) or quality_cases < 0:
            raise ConfigError(f"quality_cases is {quality_cases!r}; accepted are whole numbers from 0")
        check_coverage(coverage)
        self.data, self.image_transforms = data, image_transforms
        self.transform = Compose([*load_transforms, *image_transforms])
        self.network, self.inferer, self.device = network, inferer, device
        self.weights_file, self.bank_file = Path(save_dir, "model.pt"), Path(save_dir, "signature_bank.npz")
        self.held_out, self.held_out_cases, self.postprocessing = held_out, held_out_cases, postprocessing
        self.threshold_c, self.false_alarm_rate, self.distance = threshold_c, false_alarm_rate, distance
        self.quality_cases, self.coverage, self.settings_writer = quality_cases, coverage, settings_writer

    def run(self) -> SignatureBank:
        """Loads the best weights and fits the bank; the main process writes it.

        Raises:
            ConfigError: When a setting contradicts what the weights need.
            NotEnoughCasesError: When there are too few distinct training cases for a threshold, or too few patients to
                keep ``false_alarm_rate``.
            FeatureError: When the features of a case have no signature, naming the case.
            OutputError: When the bank cannot be written.
        """
        wait_for_all()
        for line in [] if self.settings_writer is None else self.settings_writer.check():
            logger.warning("%s: later runs take it from this bank; as_trained.json over train.json keeps it", line)
        load_weights(self.network, self.weights_file, device=self.device)
        bank = self.fit()
        if is_main_process():
            if self.settings_writer is not None:
                self.settings_writer.update()
            bank.save(self.bank_file)
            logger.info(
                "signature bank of %d cases, threshold %s, written to %s",
                len(bank.signatures), number_text(bank.threshold), self.bank_file,
            )  # fmt: skip
            logger.info("%s", describe_promise(bank))
        return bank

    def fit(self) -> SignatureBank:
        """Returns the bank of the network as it is; nothing is written.

        Raises:
            NotEnoughCasesError: When there are too few distinct training cases for a threshold, or too few patients to
                keep ``false_alarm_rate``.
            FeatureError: When the features of a case have no signature, naming the case.
        """
        if not self.data:
            raise NotEnoughCasesError("no training case: a signature bank needs at least two; add cases to dataset_dir")
        self.network.to(self.device).eval()
        measurer = ScanMeasurer(self.network, self.inferer, self.device)
        scans = self._measure_training(measurer)
        further = self._measure_held_out(measurer)
        bank = SignatureBank.fit(
            [scan.signature for scan in scans],
            c=self.threshold_c,
            false_alarm_rate=self.false_alarm_rate,
            held_out=HeldOut.of([case.signature for case in further], [case.patient for case in further]),
            layer_sizes=scans[0].layer_sizes,
            distance=self.distance,
            **bank_settings(self.inferer, self.image_transforms, self.inferer.weights_digest(self.network)),
        )
        ranges = PropertyRanges.of([scan.properties for scan in scans])
        quality, uncertainty = self._fit_quality(bank, further)
        may_be_empty = any(case.is_empty for case in further)
        return replace(bank, ranges=ranges, quality=quality, uncertainty=uncertainty, may_be_empty=may_be_empty)

    def _measure_training(self, measurer: ScanMeasurer) -> list[MeasuredScan]:
        """Signature and properties of every training case."""
        return share_out(
            "spectral signatures",
            self.data,
            Dataset(list(self.data), self.transform),
            lambda number, item: measurer.scan(item["image"], self.data[number]),
        )

    def _measure_held_out(self, measurer: ScanMeasurer) -> list[MeasuredQuality]:
        """Signature of every held-out case, and the Dice of some."""
        if self.held_out is None or not self.held_out_cases:
            return []
        # Data sets may number their patients alike.
        patients = [f"{case.get('task', '')} {patient_of(dict(case))}" for case in self.held_out_cases]
        # Damaging and segmenting takes long, and of too few patients nothing would come.
        wanted = self.quality_cases if len(set(patients)) >= MIN_PATIENTS else 0
        work = QualityMeasurer(measurer, self.held_out_cases, patients, wanted, self.postprocessing)
        return share_out("signatures of held-out cases", self.held_out_cases, self.held_out, work)

    def _fit_quality(
        self, bank: SignatureBank, further: Sequence[MeasuredQuality]
    ) -> tuple[QualityCurve | None, QualityCurve | None]:
        """The predictions of Dice from OODM and uncertainty; a line of the log says why there is none, or no bound."""
        if not self.quality_cases:
            return None, None
        graded = [scan for case in further for scan in case.graded]
        owners = [case.patient for case in further for _ in case.graded]
        kept, needed = {case.patient for case in further}, patients_needed(self.coverage)
        number = len(set(owners)) if len(kept) >= MIN_PATIENTS else len(kept)
        scores, dices = [bank.oodm(scan.signature) for scan in graded], [scan.dice for scan in graded]
        curve = QualityCurve.fit(scores, dices, owners, coverage=self.coverage)
        both = [quality_score(scan.uncertainty, oodm) for scan, oodm in zip(graded, scores, strict=True)]
        by_uncertainty = QualityCurve.fit(both, dices, owners, coverage=self.coverage)
        if curve is None and is_main_process():
            logger.warning(
                "no Dice is predicted: %d labeled patient(s) were kept from training, it takes %d; columns stay empty",
                number, MIN_PATIENTS,
            )  # fmt: skip
        elif number < needed and is_main_process():
            logger.warning(
                "the lower bound of the predicted Dice is 0: it takes %d labeled patients kept from training, there "
                "are %d; raise quality_cases or val_fraction, or lower coverage",
                needed, number,
            )  # fmt: skip
        return curve, by_uncertainty


def describe_promise(bank: SignatureBank) -> str:
    """Returns a line on what the p-values of a bank are worth.

    Args:
        bank: Fitted bank.
    """
    lowest = 1.0 / (1.0 + bank.ranked.patients)
    if not len(bank.held_out.scores):
        return "p-values come from the training cases themselves: no rate of false alarms is promised"
    return (
        f"p-values rank a scan among {len(bank.held_out.scores)} case(s) of {bank.ranked.patients:g} patient(s) that "
        f"trained no weights: none is below {lowest:.3g}, the lowest rate of false alarms that can be promised"
    )
