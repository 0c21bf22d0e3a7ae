"""What a verdict tells, and what MONAI Label's threads do to it."""

import json
from dataclasses import replace

import numpy as np
import torch
from monai.transforms import Orientationd, allow_missing_keys_mode

from common.spectral import PropertyRanges, SignatureBank, SpectralInferer, bank_settings
from common.spectral.properties import ScanProperties
from common.spectral.verdict import RESULT, SpectralVerdictd, find_reasons, judge_signature
from tests.common.banks import full_bank


def test_verdict_of_a_whole_bank_tells_everything():
    bank = full_bank()
    scan = ScanProperties({"noise": 0.2, "spacing_z": 7.7}, "coronal", "CT")
    signature = 10 * torch.ones(8).double()
    verdict = judge_signature(bank, signature, scan)
    assert list(verdict) == list(RESULT)
    oodm = bank.oodm(signature)
    assert (verdict["oodm"], verdict["threshold"], verdict["reason"]) == (oodm, bank.threshold, None)
    assert verdict["p_value"] == bank.p_value(oodm)
    assert (verdict["expected_dice"], verdict["expected_dice_low"]) == bank.quality.expect(oodm)
    for row, unsure in ((signature, 0.1), (signature, 0.9), (bank.signatures[0], 0.1), (bank.signatures[0], 0.9)):
        told, known = judge_signature(bank, row, scan, torch.tensor([unsure], dtype=torch.float64)), bank.oodm(row)
        expected, low = bank.uncertainty.expect(unsure * known**0.15)
        assert told["expected_dice"] == expected
        promised = 0.0 if told["is_ood"] else min(expected, low, bank.quality.expect(known)[1])
        assert told["expected_dice_low"] == promised
    nothing = judge_signature(bank, signature, scan, torch.tensor([1.0]))
    assert (nothing["expected_dice"], nothing["expected_dice_low"]) == (None, None)
    reasons = verdict["reasons"].split("; ")
    assert reasons[:3] == [
        "modality CT, training MR",
        "plane coronal, training axial",
        "voxel size foot to head 7.7 mm, training 1 mm",
    ]
    assert reasons[3] == "noise 0.2, training 0.02 to 0.04"
    assert reasons[4:] == find_reasons(bank, signature, None, is_ood=True)
    assert len(reasons) == 6
    assert json.loads(json.dumps(verdict)) == verdict


def test_layers_are_named_only_out_of_distribution():
    bank, scan = full_bank(), ScanProperties({"noise": 0.2})
    far = 10 * torch.ones(8).double()
    inside, outside = (judge_signature(replace(bank, threshold=limit), far, scan) for limit in (1e9, 0.0))
    assert (inside["is_ood"], outside["is_ood"]) == (False, True)
    assert inside["reasons"] == "noise 0.2, training 0.02 to 0.04"
    assert outside["reasons"].startswith(f"{inside['reasons']}; layer ")


def test_verdict_reads_the_properties_of_the_prepared_image(tmp_path):
    inferer = SpectralInferer((8, 8), ["features"])
    bank = SignatureBank.fit(np.eye(3), **bank_settings(inferer, [], "00" * 32))
    replace(bank, ranges=PropertyRanges.of([ScanProperties({"bright_0": 1.0})])).save(tmp_path / "bank.npz")
    verdict = SpectralVerdictd("pred", str(tmp_path / "bank.npz"), inferer, [])
    pred = {"logits": torch.ones(1, 8, 8), "signature": torch.ones(3), "weights_digest": torch.zeros(32).byte()}
    pred["uncertainty"] = torch.zeros(1)
    result = verdict({"image": torch.full((1, 8, 8), 3.0), "pred": pred})["result"]
    assert result["reasons"] == "bright intensities (99 %) 3, training 1"
    assert verdict({"pred": pred})["result"]["reasons"] is None


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
