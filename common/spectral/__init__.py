"""Computes spectral signatures of feature maps and draws verdicts from them."""

from .bank import SignatureBank
from .digest import bank_settings, preprocessing_digest, weights_digest
from .fitting import BankFitter, fit_bank
from .held_out import HeldOut
from .inferer import SpectralInferer
from .properties import measure_properties
from .quality import QualityCurve
from .ranges import PropertyRanges
from .settings import BankSettings
from .signature import GramAccumulator, spectral_signature
from .verdict import SpectralVerdictd

__all__ = [
    "BankFitter",
    "BankSettings",
    "GramAccumulator",
    "HeldOut",
    "PropertyRanges",
    "QualityCurve",
    "SignatureBank",
    "SpectralInferer",
    "SpectralVerdictd",
    "bank_settings",
    "fit_bank",
    "measure_properties",
    "preprocessing_digest",
    "spectral_signature",
    "weights_digest",
]
