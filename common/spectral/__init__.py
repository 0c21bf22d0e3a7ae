"""Computes spectral signatures of feature maps and draws verdicts from them."""

from .bank import SignatureBank
from .bank_files import read_bank
from .choosing import choose_inferer
from .digest import bank_settings, preprocessing_digest, weights_digest
from .fitting import BankFitter, fit_bank
from .held_out import HeldOut
from .inferer import SpectralInferer
from .judging import ScanJudge
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
    "ScanJudge",
    "SignatureBank",
    "SpectralInferer",
    "SpectralVerdictd",
    "bank_settings",
    "choose_inferer",
    "fit_bank",
    "measure_properties",
    "preprocessing_digest",
    "read_bank",
    "spectral_signature",
    "weights_digest",
]
