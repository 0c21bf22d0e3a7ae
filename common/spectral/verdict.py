"""Draws the verdict on a scan from its spectral signature and the signature bank."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import BankError, MissingDataError
from .bank import SignatureBank
from .bank_files import read_bank
from .digest import bank_settings
from .properties import ScanProperties, measure_properties
from .pseudo_layers import NOTHING_FOUND
from .quality import expect_dice, quality_score

RESULT = ("oodm", "threshold", "is_ood", "reason", "p_value", "expected_dice", "expected_dice_low", "reasons")
"""What a verdict holds: the measure (higher means more abnormal), the threshold, whether it is exceeded, and why there
is none. Then the conformal p-value, the Dice to expect with its lower bound, and what sets the scan apart. What a bank
cannot tell is ``None``."""

MAX_REASONS = 4
"""Most properties that the reasons name."""


def judge_signature(
    bank: SignatureBank, signature: Tensor, scan: ScanProperties | None = None, uncertainty: Tensor | None = None
) -> dict[str, Any]:
    """Returns the verdict of a bank on a scan, as plain values by the names of :data:`RESULT`.

    Args:
        bank: Bank that belongs to the network.
        signature: Signature of the scan, ``(D,)``.
        scan: Properties of the scan, which the bank's ranges are compared with. Default none.
        uncertainty: How unsure the network is of the segmentation, ``(1,)``, for the Dice to expect. Default none.

    Raises:
        BankError: When the signature is not one of the bank's network.
    """
    oodm = bank.oodm(signature)
    is_ood = bool(oodm > bank.threshold)
    expected, low = _expect(bank, oodm, None if uncertainty is None else float(uncertainty)) or (None, None)
    if low is not None and is_ood:
        # The promise speaks of scans like those of the calibration.
        low = 0.0
    return {
        "oodm": oodm,
        "threshold": bank.threshold,
        "is_ood": is_ood,
        "reason": None,
        "p_value": bank.p_value(oodm),
        "expected_dice": expected,
        "expected_dice_low": low,
        "reasons": "; ".join(find_reasons(bank, signature, scan, is_ood=is_ood)) or None,
    }


def _expect(bank: SignatureBank, oodm: float, uncertainty: float | None) -> tuple[float, float] | None:
    """The Dice to expect and its bound; none of an empty segmentation, where scans may hold nothing."""
    if bank.may_be_empty and uncertainty == NOTHING_FOUND:
        return None
    score = None if uncertainty is None else quality_score(uncertainty, oodm)
    return expect_dice((bank.uncertainty, score), (bank.quality, oodm))


def find_reasons(bank: SignatureBank, signature: Tensor, scan: ScanProperties | None, *, is_ood: bool) -> list[str]:
    """Returns a phrase for each property in which a scan leaves training, then for the layers that deviate most.

    Layers are named only out of distribution, where they explain the verdict. One layer by itself is no verdict, and
    that of a scan in distribution may well deviate.

    Args:
        bank: Bank with ranges and spreads; what it does not hold gives no phrase.
        signature: Signature of the scan, ``(D,)``.
        scan: Properties of the scan; ``None`` for none.
        is_ood: Whether the scan is called out-of-distribution.
    """
    reasons = bank.ranges.left_by(scan)[:MAX_REASONS] if bank.ranges and scan else []
    if bank.layers and is_ood:
        row = np.asarray(signature, dtype=np.float64)
        reasons += bank.layers.deviating(row, bank.signatures, bank.settings.layers, bank.c)
    return reasons


class SpectralVerdictd(MapTransform):
    """Unpacks what ``SpectralInferer`` returns: logits go on, the verdict goes to ``result``.

    ``result`` holds plain values, as MONAI Label sends them to its client, see :data:`RESULT`. Where no valid bank
    exists (a server that has just been trained anew, say) all are ``None`` but ``reason``, which says why; the
    segmentation goes on.

    Args:
        keys: Key of the prediction.
        bank_file: File of the signature bank. It is read again when it changes, since training may replace it while a
            server runs.
        inferer: Inferer whose settings the bank must share.
        image_transforms: Transforms that prepare an image after loading; the bank must have been fitted with the same.
        result_key: Key that the verdict goes to. Default ``result``, as MONAI Label expects.
    """

    def __init__(
        self,
        keys: KeysCollection,
        bank_file: str,
        inferer: Any,
        image_transforms: Sequence[Any],
        result_key: str = "result",
    ) -> None:
        super().__init__(keys)
        self.bank_file = bank_file
        # Described once: ``Invertd`` changes a flag of these transforms while it runs, in another thread perhaps.
        self.settings = bank_settings(inferer, image_transforms, weights_digest="")
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with logits for the prediction and the verdict in ``result``."""
        unpacked = dict(data)
        for key in self.key_iterator(unpacked):
            prediction = unpacked[key]
            unpacked[key] = prediction["logits"]
            unpacked["signature"] = prediction["signature"]
            verdict = self.judge(
                prediction["signature"], prediction["weights_digest"], unpacked, prediction["uncertainty"]
            )
            unpacked[self.result_key] = dict(unpacked.get(self.result_key) or {}) | verdict
        return unpacked

    def judge(
        self,
        signature: Tensor,
        weights_digest: Tensor,
        data: Mapping[Hashable, Any] | None = None,
        uncertainty: Tensor | None = None,
    ) -> dict[str, Any]:
        """Returns the verdict on one scan, by the names of :data:`RESULT`.

        Args:
            signature: Signature of the scan, ``(D,)``.
            weights_digest: SHA-256 of the network's weights, ``(32,)`` uint8.
            data: Case with the prepared ``image``, whose properties are compared with those of training. Default none.
            uncertainty: How unsure the network is of the segmentation, ``(1,)``. Default none.
        """
        digest = bytes(weights_digest.tolist()).hex()
        try:
            bank = read_bank(self.bank_file)
            bank.check(**self.settings | {"weights_digest": digest})
            image = (data or {}).get("image")
            scan = measure_properties(image, data) if bank.ranges and isinstance(image, Tensor) else None
            return judge_signature(bank, signature, scan, uncertainty)
        except (BankError, MissingDataError) as error:
            return dict.fromkeys(RESULT) | {"reason": str(error)}
