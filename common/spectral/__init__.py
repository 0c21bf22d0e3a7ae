"""Spectral signatures of feature maps and the verdicts drawn from them."""

from .bank import BankSettings, SignatureBank
from .digest import bank_settings, preprocessing_digest, weights_digest
from .inferer import SpectralInferer
from .signature import GramAccumulator, spectral_signature

__all__ = [
    "BankSettings",
    "GramAccumulator",
    "SignatureBank",
    "SpectralInferer",
    "bank_settings",
    "preprocessing_digest",
    "spectral_signature",
    "weights_digest",
]
