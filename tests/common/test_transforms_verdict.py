"""What MONAI Label's threads do to a verdict."""

import numpy as np
import torch
from monai.transforms import Orientationd, allow_missing_keys_mode

from common.spectral import SignatureBank, SpectralInferer, bank_settings
from common.spectral.verdict import SpectralVerdictd


def test_verdict_stands_while_another_thread_inverts_the_transforms(tmp_path):
    """``Invertd`` lets the transforms it inverts lack keys meanwhile, a setting that their digest would tell."""
    transforms = [Orientationd("image", axcodes="RAS", labels=None)]
    inferer = SpectralInferer((8, 8), ["features"])
    bank = SignatureBank.fit(np.eye(3), **bank_settings(inferer, transforms, "00" * 32))
    bank.save(tmp_path / "bank.npz")
    verdict = SpectralVerdictd("pred", str(tmp_path / "bank.npz"), inferer, transforms)
    with allow_missing_keys_mode(transforms[0]):
        result = verdict.judge(torch.ones(3), torch.zeros(32, dtype=torch.uint8))
    assert result["reason"] is None
    assert result["oodm"] == bank.oodm(np.ones(3))
