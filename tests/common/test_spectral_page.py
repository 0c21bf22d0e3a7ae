"""The page on the signature in one's own code: its example runs, is short, and tells scans apart."""

import re
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.utils import set_determinism
from torch.testing import assert_close

from common.errors import BankMismatchError, ConfigError, NotEnoughCasesError
from common.spectral import ScanJudge, fit_bank

PAGE = Path(__file__).resolve().parents[2] / "common" / "spectral" / "README.md"


@pytest.fixture(scope="module")
def example():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return code


@pytest.fixture(scope="module")
def names(example, tmp_path_factory):
    """What the example leaves, run on smooth scans."""
    set_determinism(0)
    ramp = torch.linspace(0, 1, 20).reshape(1, 20, 1, 1).expand(1, 20, 18, 17)
    scans = [ramp * (0.9 + 0.02 * number) + 0.02 * torch.randn(ramp.shape) for number in range(8)]
    names = {"training_scans": scans[:7], "scan": scans[7]}
    with chdir(tmp_path_factory.mktemp("page")):
        exec(compile(example, str(PAGE), "exec"), names)
    set_determinism(None)
    return names


def test_example_has_at_most_fifteen_lines(example):
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_example_segments_as_the_call_that_it_replaces(names):
    with torch.no_grad():
        expected = sliding_window_inference(names["scan"][None], (32, 32, 32), 1, names["network"], overlap=0.25)
    assert_close(names["logits"], expected[0], rtol=0, atol=1e-5)
    assert names["segmentation"].shape == (20, 18, 17)


def test_scan_like_those_of_training_is_in_and_noise_is_out(names):
    bank = names["bank"]
    assert not names["is_ood"]
    assert len(bank.signatures) == 7
    assert names["p_value"] == bank.p_value(names["oodm"])
    verdict = names["judge"](torch.randn(1, 20, 18, 17))[1]
    assert verdict["is_ood"]
    assert verdict["oodm"] > 10 * names["oodm"]
    assert "noise" in verdict["reasons"]


def test_bank_of_the_example_is_bound_to_weights_and_transforms(names):
    network, judge, bank = (names[name] for name in ("network", "judge", "bank"))
    assert bank.settings.layers == ("conv_0", "upcat_1", "image")
    assert (bank.settings.roi_size, bank.settings.overlap, bank.settings.sigmoid) == ((32, 32, 32), 0.25, False)
    assert not network.training
    with pytest.raises(BankMismatchError, match=r"preprocessing_digest .* refit it with: python -m common fit-bank"):
        ScanJudge(network, bank, image_transforms=["scaled"])
    with torch.no_grad():
        network.final_conv.bias += 1
        with pytest.raises(BankMismatchError, match="weights_digest"):
            judge(names["scan"])
        network.final_conv.bias -= 1


def test_layers_are_found_and_settings_reach_the_bank(names):
    settings = {"roi_size": (32, 32, 32), "c": 1.5, "distance": "mahalanobis", "held_out": [names["scan"]]}
    bank = fit_bank(names["network"], iter(names["training_scans"][:4]), **settings)
    assert bank.settings.layers == ("conv_0", "upcat_1", "image")
    assert (bank.c, bank.settings.distance, len(bank.held_out.scores)) == (1.5, "mahalanobis", 1)


def test_wrong_layers_and_no_scans_are_refused(names):
    with pytest.raises(ConfigError, match="layers names 'upcat_9', which the network does not have; it has: conv_0"):
        fit_bank(names["network"], names["training_scans"], layers=["upcat_9"], roi_size=(32, 32, 32))
    with pytest.raises(NotEnoughCasesError, match="no training scan"):
        fit_bank(names["network"], [], roi_size=(32, 32, 32))
