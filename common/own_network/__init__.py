"""Fits signature banks to networks that have nothing of ours, and judges scans with them."""

from .fit import fit_own_bank
from .judge import judge_scans
from .source import GivenNetwork, read_network

__all__ = ["GivenNetwork", "fit_own_bank", "judge_scans", "read_network"]
