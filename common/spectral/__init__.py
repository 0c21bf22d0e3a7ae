"""Computes spectral signatures of feature maps and draws verdicts from them."""

from .bank import BankSettings, SignatureBank
from .digest import bank_settings, preprocessing_digest, weights_digest
from .fitting import BankFitter, fit_bank
from .inferer import SpectralInferer
from .signature import GramAccumulator, spectral_signature
from .verdict import SpectralVerdictd

__all__ = [
    "BankFitter",
    "BankSettings",
    "GramAccumulator",
    "SignatureBank",
    "SpectralInferer",
    "SpectralVerdictd",
    "bank_settings",
    "fit_bank",
    "preprocessing_digest",
    "spectral_signature",
    "weights_digest",
]
