"""Segments and judges scans with a network and its signature bank, and nothing else to set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bank import SignatureBank
from .digest import bank_settings
from .inferer import SpectralInferer
from .properties import measure_properties
from .verdict import judge_signature

FIT_COMMAND = "python -m common fit-bank, or fit_bank of common.spectral"
"""What fits the bank of a network that has no bundle of ours."""


class ScanJudge:
    """Segments a scan and draws the verdict on it; layers, window and all other settings are those of the bank.

    Args:
        network: Trained network; in evaluation mode afterwards.
        bank: Bank that was fitted to it.
        image_transforms: Transforms that prepare scans; the bank must have been fitted with the same. Default none.
        sw_batch_size: Number of windows that go through the network at once. Default 1.

    Raises:
        BankMismatchError: When the bank was fitted with other weights or other transforms.
    """

    def __init__(
        self,
        network: nn.Module,
        bank: SignatureBank,
        *,
        image_transforms: Sequence[Any] = (),
        sw_batch_size: int = 1,
    ) -> None:
        self.network, self.bank = network.eval(), bank
        self.inferer = SpectralInferer.of(bank.settings, sw_batch_size=sw_batch_size)
        digest = self.inferer.weights_digest(network)
        bank.check(refit_command=FIT_COMMAND, **bank_settings(self.inferer, image_transforms, digest))

    def __call__(self, scan: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Returns the logits of a scan and the verdict on it.

        Args:
            scan: Scan ``(C, H, W[, D])``, prepared as for the network, on the network's device. The metadata of its
                file, where it has any, serve the reasons.

        Returns:
            Logits ``(K, H, W[, D])``, as ``sliding_window_inference`` gives them, and the verdict by the names of
            :data:`~.verdict.RESULT`; a higher ``oodm`` means more abnormal.

        Raises:
            BankMismatchError: When the weights have changed since.
            FeatureError: When the scan has no signature.
        """
        self.bank.check(refit_command=FIT_COMMAND, weights_digest=self.inferer.weights_digest(self.network))
        with torch.no_grad():
            result = self.inferer(torch.as_tensor(scan).as_subclass(Tensor)[None], self.network)
        verdict = judge_signature(self.bank, result["signature"][0], measure_properties(scan), result["uncertainty"][0])
        return result["logits"][0], verdict
