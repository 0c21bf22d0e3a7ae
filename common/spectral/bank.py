"""Fits, saves and reads the signature bank: what a hospital receives in place of training images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from ..errors import BankError, BankMismatchError, ConfigError, MissingDataError, NotEnoughCasesError
from ..runtime.bank_rules import check_norms, implied_threshold
from ..runtime.files import write_atomically
from .distance import Array, Distance, distance_to, leave_one_out

VERSION = 1
REFIT_COMMAND = (
    "python -m monai.bundle run fit_bank --config_file configs/train.json --dataset_dir <training data> --model_dir "
    "<folder of model.pt> --split_file <split.json of the training run>"
)


@dataclass(frozen=True)
class BankSettings:
    """How the signatures of a bank came about; inference must do the same for its verdicts to mean anything.

    Args:
        layers: Names of the feature layers, side by side in a signature. Default none.
        per_voxel: Whether singular values were divided by the square root of the number of voxels. Default false.
        precision: Floating type in which the network ran. Default ``float32``.
        roi_size: Largest sliding window, in voxels along each axis; what a network sees at once moves its features.
            Default none.
        overlap: Share of a window that the next one covered again, in [0, 1). Default 0.25.
        divisor: Number of voxels of which window sizes were multiples, for all axes or for each. Default 1.
        distance: ``nearest`` (the paper, and the default) or ``mahalanobis``.
        weights_digest: SHA-256 of the network's weights, in hexadecimal. Default empty.
        preprocessing_digest: SHA-256 of the settings of the image transforms, in hexadecimal. Default empty.
    """

    layers: tuple[str, ...] = ()
    per_voxel: bool = False
    precision: str = "float32"
    roi_size: tuple[int, ...] = ()
    overlap: float = 0.25
    divisor: int | tuple[int, ...] = 1
    distance: Distance = "nearest"
    weights_digest: str = ""
    preprocessing_digest: str = ""

    def __post_init__(self) -> None:
        if self.distance not in get_args(Distance):
            raise ConfigError(f"distance is {self.distance!r}; accepted are {' and '.join(get_args(Distance))}")


@dataclass(frozen=True, eq=False)
class SignatureBank:
    """Spectral signatures of a training set with the threshold they imply; higher OODM means more abnormal.

    Karimi and Gholipour 2023, section III-D, equations 1 and 2. Holds no name, no path and nothing of a patient.

    Args:
        signatures: Signatures, ``(K, D)`` float64, without duplicates, sorted, so that the order of cases does not
            matter.
        leave_one_out: OODM of each training case against the others, ``(K,)`` float64.
        threshold: ``mean + c * std`` of ``leave_one_out`` (population standard deviation).
        c: Number of standard deviations above the mean at which the threshold lies, the paper's C; 2.5 there.
        settings: Settings of the network, the inferer and the distance that the signatures came from.
    """

    signatures: Array
    leave_one_out: Array
    threshold: float
    c: float
    settings: BankSettings

    @classmethod
    def fit(cls, signatures: Tensor | Array | Sequence[Any], *, c: float = 2.5, **settings: Any) -> SignatureBank:
        """Returns the bank of the given training signatures.

        Args:
            signatures: Training signatures, ``(K, D)``, one row for each case; exact duplicates are dropped.
            c: Number of standard deviations above the mean leave-one-out OODM at which the threshold lies, from 0 to
                10. Default 2.5.
            **settings: Fields of :class:`BankSettings`.

        Raises:
            NotEnoughCasesError: When there are fewer than two distinct signatures (three for the Mahalanobis distance).
            BankError: When a signature is not finite, or so large that a distance is not.
            ConfigError: When ``c`` is out of its range.
        """
        chosen = BankSettings(**settings)
        rows = (
            np.stack([np.asarray(row, dtype=np.float64) for row in signatures]) if len(signatures) else np.empty((0, 0))
        )
        if rows.size and not np.isfinite(rows).all():
            raise BankError("a training signature holds NaN or infinite values: no bank can be fitted")
        unique = np.unique(rows, axis=0)
        needed = 2 if chosen.distance == "nearest" else 3
        if len(unique) < needed:
            raise NotEnoughCasesError(
                f"{len(unique)} distinct training case(s): a threshold needs at least {needed} with distance="
                f"{chosen.distance!r}; add training cases to dataset_dir"
            )
        loo = leave_one_out(unique, chosen.distance)
        return cls(unique, loo, implied_threshold(loo.tolist(), c), float(c), chosen)

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
        return float(distance_to(row[None], self.signatures, self.settings.distance)[0])

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
        # A digest says least, and differs too where images are resized to another window.
        for name, value in sorted(settings.items(), key=lambda item: item[0] == "preprocessing_digest"):
            expected = getattr(self.settings, name)
            current = tuple(value) if isinstance(value, list) else value
            if expected != current:
                raise BankMismatchError(
                    f"the signature bank does not belong to this network: {name} is {_short(current)}, the bank was "
                    f"fitted with {_short(expected)}; refit it with: {REFIT_COMMAND}"
                )

    def save(self, path: str | Path) -> None:
        """Writes the bank as an npz without objects, to a temporary name first.

        Raises:
            OutputError: When it cannot be written.
        """
        content = {name: np.asarray(value) for name, value in vars(self.settings).items()}
        # Without a layer, numpy would make an array of floats.
        content["layers"] = np.asarray(self.settings.layers, dtype=np.str_)
        content["roi_size"] = np.asarray(self.settings.roi_size, dtype=np.int64)
        content |= {name: np.asarray(getattr(self, name)) for name in _NUMBERS} | {"version": np.asarray(VERSION)}
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
        needed = {*_NUMBERS, "version", *(field.name for field in fields(BankSettings))}
        if needed != content.keys() or int(content["version"]) != VERSION:
            raise BankError(f"this is not a signature bank of version {VERSION}")
        if any(content[name].dtype != np.float64 for name in _NUMBERS):
            raise BankError("its numbers are not of double precision")
        check_norms(content["signatures"].tolist(), content["layers"].size)
        settings = {field.name: content[field.name].tolist() for field in fields(BankSettings)}
        # A divisor is one number, or one for each axis.
        several = ("layers", "roi_size", *(["divisor"] if content["divisor"].ndim else []))
        settings |= {name: tuple(settings[name]) for name in several}
        bank = cls.fit(content["signatures"], c=float(content["c"]), **settings)
        stored = replace(bank, leave_one_out=content["leave_one_out"], threshold=float(content["threshold"]))
        # The threshold decides over patients: it must follow from the signatures it is shipped with.
        if not (
            np.isclose(bank.threshold, stored.threshold, rtol=1e-6, atol=0.0)
            and bank.signatures.shape == content["signatures"].shape
            and np.allclose(bank.leave_one_out, stored.leave_one_out, rtol=1e-6, atol=1e-12)
        ):
            raise BankError(f"threshold {stored.threshold} does not follow from its signatures")
        return stored

    @classmethod
    def merge(cls, banks: Iterable[SignatureBank]) -> SignatureBank:
        """Returns the bank of all signatures of several banks, with its threshold computed anew.

        Raises:
            BankMismatchError: When the banks were fitted with different settings or C.
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
        rows = np.concatenate([bank.signatures for bank in collected])
        return cls.fit(rows, c=first.c, **vars(first.settings))


_UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, BadZipFile)
"""What numpy and zipfile raise for a damaged or foreign file, and what its content may lead to."""

_NUMBERS = ("signatures", "leave_one_out", "threshold", "c")


def _short(value: Any) -> str:
    """A setting for a message; of a digest, the first twelve characters."""
    text = str(value) or "unset"
    return f"{text[:12]}..." if len(text) == 64 else text
