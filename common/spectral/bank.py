"""Fits, saves and reads the signature bank: what a hospital receives in place of training images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from ..errors import BankError, BankMismatchError, MissingDataError, NotEnoughCasesError
from ..runtime.bank_rules import check_norms, implied_threshold
from ..runtime.conformal import RankedScores
from ..runtime.files import write_atomically
from .arrays import EMPTY, NUMBERS, VERSION, check_arrays
from .distance import Array, fit_distance, leave_one_out
from .held_out import HeldOut, stack_rows
from .layers import LayerSpreads
from .pseudo_layers import LAYOUT, OUTPUT
from .quality import QualityCurve
from .ranges import PropertyRanges
from .settings import REFIT_COMMAND, BankSettings


@dataclass(frozen=True, eq=False)
class SignatureBank:
    """Spectral signatures of a training set with the threshold they imply; higher OODM means more abnormal.

    Karimi and Gholipour 2023, section III-D, equations 1 and 2. Holds no name, no path and nothing of a patient.

    Args:
        signatures: Signatures, ``(K, D)`` float64, without duplicates, sorted, so that the order of cases does not
            matter.
        leave_one_out: OODM of each training case against the others, ``(K,)`` float64.
        threshold: OODM above which a scan is called out-of-distribution: ``mean + c * std`` of ``leave_one_out``
            (population standard deviation), or what ``false_alarm_rate`` demands.
        c: Number of standard deviations above the mean at which the threshold lies, the paper's C; 2.5 there.
        settings: Settings of the network, the inferer and the distance that the signatures came from.
        held_out: Cases that trained no weights, which p-values are calibrated on. By default none: p-values then come
            from ``leave_one_out``, and promise nothing, since the network has learned those cases.
        false_alarm_rate: Promised share of false alarms, above 0, below 1; ``None``, the default, for the paper's rule.
        quality: Prediction of Dice from the OODM. Default none.
        uncertainty: Prediction of Dice from :func:`quality_score`. Default none.
        may_be_empty: Whether a held-out scan holds no foreground, as a slice without a tumor does: no Dice is predicted
            then where none is found. Default false.
        ranges: Ranges of the training scans' plain properties. Default none.
        layers: Distances of the training cases in every layer by itself. Default none.
    """

    signatures: Array
    leave_one_out: Array
    threshold: float
    c: float
    settings: BankSettings
    held_out: HeldOut = field(default_factory=HeldOut)
    false_alarm_rate: float | None = None
    quality: QualityCurve | None = None
    uncertainty: QualityCurve | None = None
    may_be_empty: bool = False
    ranges: PropertyRanges | None = None
    layers: LayerSpreads | None = None

    @classmethod
    def fit(
        cls,
        signatures: Tensor | Array | Sequence[Any],
        *,
        c: float = 2.5,
        false_alarm_rate: float | None = None,
        held_out: HeldOut | None = None,
        layer_sizes: Sequence[int] = (),
        **settings: Any,
    ) -> SignatureBank:
        """Returns the bank of the given training signatures.

        Args:
            signatures: Training signatures, ``(K, D)``, one row for each case; exact duplicates are dropped.
            c: Number of standard deviations above the mean leave-one-out OODM at which the threshold lies, from 0 to
                10. Default 2.5.
            false_alarm_rate: Promised share of false alarms, above 0, below 1; the threshold is then the lowest that
                keeps it. ``None``, the default, for the rule of ``c``.
            held_out: Cases that trained no weights, see :meth:`HeldOut.of`; exact copies of training signatures are
                dropped. Default none.
            layer_sizes: Numbers that each layer has in a signature, for :class:`LayerSpreads` and distances by a shrunk
                covariance. Default none.
            **settings: Fields of :class:`BankSettings`.

        Raises:
            NotEnoughCasesError: When there are fewer than two distinct signatures (three unless ``distance`` is
                ``nearest``), or too few to keep ``false_alarm_rate``.
            BankError: When a signature is not finite, or so large that a distance is not.
            ConfigError: When ``c`` or ``false_alarm_rate`` is out of its range.
        """
        chosen = BankSettings(**settings)
        rows = stack_rows(signatures)
        if rows.size and not np.isfinite(rows).all():
            raise BankError("a training signature holds NaN or infinite values: no bank can be fitted")
        unique = np.unique(rows, axis=0)
        needed = 2 if chosen.distance == "nearest" else 3
        if len(unique) < needed:
            raise NotEnoughCasesError(
                f"{len(unique)} distinct training case(s): a threshold needs at least {needed} with distance="
                f"{chosen.distance!r}; add training cases to dataset_dir"
            )
        layers = LayerSpreads.of(unique, layer_sizes)
        sizes = layers.sizes if layers else ()
        loo = leave_one_out(unique, chosen.distance, sizes)
        judged = (held_out or HeldOut()).against(unique, chosen.distance, sizes)
        threshold = implied_threshold(loo.tolist(), c)
        if false_alarm_rate is not None:
            threshold = judged.ranked(loo).threshold(false_alarm_rate)
        return cls(unique, loo, threshold, float(c), chosen, judged, false_alarm_rate, layers=layers)

    @cached_property
    def ranked(self) -> RankedScores:
        """The scores that p-values are calibrated on: of held-out cases, or else of training cases left out in turn."""
        return self.held_out.ranked(self.leave_one_out)

    def p_value(self, oodm: float) -> float:
        """Returns the conformal p-value of an OODM: the share of calibration patients that are as abnormal or more.

        Patients that the network has not seen get a p-value of at most ``a`` with probability at most ``a``, where they
        are exchangeable with those of ``held_out``. Without held-out cases there is no such promise.

        Args:
            oodm: OODM of a scan; higher means more abnormal.

        Returns:
            A number above 0, up to 1; lower means more abnormal.
        """
        return self.ranked.p_value(oodm)

    def oodm(self, signature: Tensor | Array) -> float:
        """Returns the out-of-distribution measure of a signature; higher means more abnormal.

        Args:
            signature: Signature of a scan, ``(D,)``.

        Raises:
            BankMismatchError: When its length is not that of the bank's signatures.
            BankError: When it is not finite.
        """
        row = np.asarray(signature, dtype=np.float64)
        if row.shape != self.signatures.shape[1:]:
            raise BankMismatchError(f"signature of shape {row.shape}, the bank holds {self.signatures.shape[1:]}")
        if not np.isfinite(row).all():
            raise BankError("the signature holds NaN or infinite values: it has no OODM")
        return float(self._measure(row[None])[0])

    @cached_property
    def _measure(self) -> Callable[[Array], Array]:
        """The distance, fitted once: a covariance of many cases takes longer than a verdict may."""
        return fit_distance(self.signatures, self.settings.distance, self.layers.sizes if self.layers else ())

    @property
    def layer_sizes(self) -> dict[str, int]:
        """Name of a layer -> the numbers it has in a signature; empty where that is not known."""
        names, sizes = self.settings.layers, self.layers.sizes if self.layers else self.signatures.shape[1:]
        return dict(zip(names, sizes, strict=True)) if len(names) == len(sizes) else {}

    def is_ood(self, signature: Tensor | Array) -> bool:
        """Returns whether the OODM of ``signature`` lies above the threshold."""
        return self.oodm(signature) > self.threshold

    def check(self, **settings: Any) -> None:
        """Makes sure that the bank was fitted with the given settings.

        Args:
            **settings: Any fields of :class:`BankSettings`, as in use now.

        Raises:
            BankMismatchError: When a setting differs, naming the first one and the command that fits the bank again.
        """
        if not {OUTPUT, LAYOUT} & set(self.settings.layers) and self.uncertainty is None:
            # How logits are read matters only to a bank that the segmentation counts for.
            settings.pop("sigmoid", None)
        self.settings.check(**settings)

    def save(self, path: str | Path) -> None:
        """Writes the bank as an npz without objects, to a temporary name first.

        Raises:
            BankError: When the bank is not bound to a network and its settings: it would judge any other as well.
            OutputError: When it cannot be written.
        """
        if self.settings.unbound:
            raise BankError(
                f"the bank was fitted without {', '.join(self.settings.unbound)}, so nothing tells what it belongs to; "
                "fit it with fit_bank(network, scans, layers=...), or give bank_settings(...) to SignatureBank.fit"
            )
        content = {name: np.asarray(value) for name, value in vars(self.settings).items()}
        # Without a layer, numpy would make an array of floats.
        content["layers"] = np.asarray(self.settings.layers, dtype=np.str_)
        content["roi_size"] = np.asarray(self.settings.roi_size, dtype=np.int64)
        content |= {name: np.asarray(getattr(self, name)) for name in NUMBERS} | {"version": np.asarray(VERSION)}
        rate = np.nan if self.false_alarm_rate is None else self.false_alarm_rate
        content |= EMPTY | self.held_out.content() | {"false_alarm_rate": np.asarray(rate, dtype=np.float64)}
        for part in (self.quality, self.ranges, self.layers):
            content |= part.content() if part else {}
        content |= self.uncertainty.content("uncertainty") if self.uncertainty else {}
        content |= {"may_be_empty": np.asarray(self.may_be_empty)}
        with write_atomically(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> SignatureBank:
        """Reads a bank, never unpickling anything.

        Raises:
            MissingDataError: When there is no such file.
            BankError: When it is truncated, of another kind or contradicts itself.
        """
        if not Path(path).is_file():
            raise MissingDataError(f"no signature bank at {path}; fit it with: {REFIT_COMMAND}")
        try:
            # numpy leaves a broken archive open unless the file is opened and closed here.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return cls._from_content({name: archive[name] for name in archive.files})
        except _UNREADABLE as error:
            raise BankError(
                f"{path} is not a readable signature bank ({error}); refit it with: {REFIT_COMMAND}"
            ) from error

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> SignatureBank:
        """Builds a bank from the arrays of its file and makes sure that they fit together."""
        check_arrays(content)
        settings = {field.name: content[field.name].tolist() for field in fields(BankSettings) if field.name in content}
        for name in ("signatures", "calibration_signatures"):
            rows = content.get(name, np.empty((0, 0))).tolist()
            check_norms(rows, content["layers"].size, settings.get("signature_form", "unit"))
        # A divisor is one number, or one for each axis.
        several = ("layers", "roi_size", *(["divisor"] if content["divisor"].ndim else []))
        settings |= {name: tuple(settings[name]) for name in several}
        rate = float(content.get("false_alarm_rate", np.nan))
        held_out, layers = HeldOut.read(content), LayerSpreads.read(content)
        bank = cls.fit(
            content["signatures"],
            c=float(content["c"]),
            false_alarm_rate=None if np.isnan(rate) else rate,
            held_out=held_out,
            layer_sizes=layers.sizes if layers else (),
            **settings,
        )
        stored = replace(
            bank,
            leave_one_out=content["leave_one_out"],
            threshold=float(content["threshold"]),
            held_out=held_out,
            quality=QualityCurve.read(content),
            uncertainty=QualityCurve.read(content, "uncertainty"),
            may_be_empty=bool(content.get("may_be_empty", False)),
            ranges=PropertyRanges.read(content),
            layers=layers,
        )
        # The threshold decides over patients: it must follow from the signatures it is shipped with.
        if not (
            np.isclose(bank.threshold, stored.threshold, rtol=1e-6, atol=0.0)
            and bank.signatures.shape == content["signatures"].shape
            and np.allclose(bank.leave_one_out, stored.leave_one_out, rtol=1e-6, atol=1e-12)
        ):
            raise BankError(f"threshold {stored.threshold} does not follow from its signatures")
        if not held_out.follows(bank.held_out):
            raise BankError("the scores of its held-out cases do not follow from their signatures")
        # Built here, so that weights that are none are refused with the file's name.
        assert stored.ranked.patients > 0
        return stored

    @classmethod
    def merge(cls, banks: Iterable[SignatureBank]) -> SignatureBank:
        """Returns the bank of all signatures of several banks, with threshold and calibration computed anew.

        Held-out cases of all banks calibrate the merged one. A bank without any adds none: the promise then holds for
        patients like those of the others. Ranges are joined. The prediction of Dice is lost: it takes the scans.

        Raises:
            BankMismatchError: When the banks were fitted with different settings, C or rates of false alarms.
            NotEnoughCasesError: When no bank is given.
        """
        collected = list(banks)
        if not collected:
            raise NotEnoughCasesError("no signature bank to merge: give at least one")
        first = collected[0]
        for bank in collected[1:]:
            first.check(**vars(bank.settings))
            if bank.c != first.c:
                raise BankMismatchError(
                    f"banks with C = {first.c} and C = {bank.c} cannot be merged: refit one of them"
                )
            if bank.false_alarm_rate != first.false_alarm_rate:
                raise BankMismatchError(
                    f"banks with false_alarm_rate {first.false_alarm_rate} and {bank.false_alarm_rate} cannot be "
                    "merged: refit one of them"
                )
        merged = cls.fit(
            np.concatenate([bank.signatures for bank in collected]),
            c=first.c,
            false_alarm_rate=first.false_alarm_rate,
            held_out=HeldOut.merge([bank.held_out for bank in collected]),
            layer_sizes=first.layers.sizes if first.layers else (),
            **vars(first.settings),
        )
        return replace(merged, ranges=PropertyRanges.merge([bank.ranges for bank in collected]))


_UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, BadZipFile)
"""What numpy and zipfile raise for a damaged or foreign file, and what its content may lead to."""
