"""Draws the verdict on a scan from its spectral signature and the signature bank."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from ..errors import BankError, MissingDataError
from .bank import SignatureBank
from .digest import bank_settings


class SpectralVerdictd(MapTransform):
    """Unpacks what ``SpectralInferer`` returns: logits go on, the verdict goes to ``result``.

    ``result`` holds plain values, as MONAI Label sends them to its client: ``oodm`` (higher means more abnormal),
    ``threshold``, ``is_ood`` and ``reason``. Where no valid bank exists (a server that has just been trained anew, say)
    the first three are ``None`` and ``reason`` says why; the segmentation goes on.

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
        self._bank: tuple[tuple[int, int], SignatureBank] | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns ``data`` with logits for the prediction and the verdict in ``result``."""
        unpacked = dict(data)
        for key in self.key_iterator(unpacked):
            prediction = unpacked[key]
            unpacked[key] = prediction["logits"]
            unpacked["signature"] = prediction["signature"]
            verdict = self.judge(prediction["signature"], prediction["weights_digest"])
            unpacked[self.result_key] = dict(unpacked.get(self.result_key) or {}) | verdict
        return unpacked

    def judge(self, signature: Tensor, weights_digest: Tensor) -> dict[str, Any]:
        """Returns the verdict on one signature.

        Args:
            signature: Signature of a scan, ``(D,)``.
            weights_digest: SHA-256 of the network's weights, ``(32,)`` uint8.
        """
        digest = bytes(weights_digest.tolist()).hex()
        try:
            bank = self._load_bank()
            bank.check(**self.settings | {"weights_digest": digest})
            oodm = bank.oodm(signature)
        except (BankError, MissingDataError) as error:
            return {"oodm": None, "threshold": None, "is_ood": None, "reason": str(error)}
        return {"oodm": oodm, "threshold": bank.threshold, "is_ood": bool(oodm > bank.threshold), "reason": None}

    def _load_bank(self) -> SignatureBank:
        """The bank, read again only when its file has changed."""
        status = Path(self.bank_file).stat() if Path(self.bank_file).is_file() else None
        if status is None:
            return SignatureBank.load(self.bank_file)
        key = (status.st_mtime_ns, status.st_size)
        cached = self._bank
        if cached is None or cached[0] != key:
            cached = (key, SignatureBank.load(self.bank_file))
            self._bank = cached
        return cached[1]
