"""Checks a run that segments before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..runtime.files import check_writable
from ..runtime.model_settings import ModelSettings
from ..runtime.weights import load_weights
from ..spectral import SignatureBank, SpectralInferer, bank_settings, read_bank


class InferencePreflight:
    """Loads the weights and makes sure that the signature bank belongs to them and results can be written.

    Args:
        network: Network that receives the weights.
        weights_file: File of the weights.
        bank_file: File of the signature bank.
        inferer: Inferer whose settings the bank must share.
        image_transforms: Transforms that prepare an image after loading; the bank must have been fitted with the same.
        output_dir: Folder of the results, which must be writable.
        device: Device that the weights are read to.
        model_settings: Settings of the weights, which this run must not contradict. Default none.
    """

    def __init__(
        self,
        network: nn.Module,
        weights_file: str,
        bank_file: str,
        inferer: SpectralInferer,
        image_transforms: Sequence[Any],
        output_dir: str,
        device: str | torch.device,
        *,
        model_settings: ModelSettings | None = None,
    ) -> None:
        self.network, self.weights_file, self.bank_file = network, weights_file, bank_file
        self.inferer, self.image_transforms = inferer, image_transforms
        self.output_dir, self.device, self.model_settings = output_dir, device, model_settings

    def load(self) -> None:
        """Loads the weights and makes sure that results can be written.

        Raises:
            OutputError: When ``output_dir`` cannot be written.
            MissingDataError: When the weights are missing.
            ConfigError: When a setting contradicts what the weights need.
            WeightsError: When the weights belong to another network.
        """
        check_writable(self.output_dir)
        if self.model_settings is not None:
            self.model_settings.check()
        load_weights(self.network, self.weights_file, device=self.device)

    def run(self) -> SignatureBank:
        """Returns the bank, which belongs to the network.

        Raises:
            MissingDataError: When weights or bank are missing.
            BankError: When the bank is unreadable or was fitted with other weights or settings.
        """
        self.load()
        bank = read_bank(self.bank_file)
        # The inferer remembers the digest, so that the first scan does not compute it again.
        digest = self.inferer.weights_digest(self.network)
        bank.check(**bank_settings(self.inferer, self.image_transforms, digest))
        return bank
