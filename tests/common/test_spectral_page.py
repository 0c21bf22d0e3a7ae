"""The page on the signature in one's own code: its example runs, is short, and tells scans apart."""

import re
from pathlib import Path

import pytest
import torch
from monai.utils import set_determinism

from common.errors import BankMismatchError
from common.spectral import SignatureBank, bank_settings, fit_bank

PAGE = Path(__file__).resolve().parents[2] / "common" / "spectral" / "README.md"


@pytest.fixture
def example():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return code


@pytest.fixture
def names(example, monkeypatch, tmp_path):
    """What the example leaves, run on smooth scans."""
    monkeypatch.chdir(tmp_path)
    set_determinism(0)
    ramp = torch.linspace(0, 1, 20).reshape(1, 20, 1, 1).expand(1, 20, 18, 17)
    scans = [ramp * (0.9 + 0.02 * number) + 0.02 * torch.randn(ramp.shape) for number in range(8)]
    names = {"training_scans": scans[:7], "scan": scans[7]}
    exec(compile(example, str(PAGE), "exec"), names)
    set_determinism(None)
    return names


def test_example_has_at_most_fifteen_lines(example):
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_example_segments_and_judges(names):
    assert names["segmentation"].shape == (1, 20, 18, 17)
    assert len(names["bank"].signatures) == 7
    assert names["is_ood"] == (names["oodm"] > names["bank"].threshold)


def test_noise_is_farther_from_the_bank_than_a_scan_like_those_of_training(names):
    with torch.no_grad():
        noise = names["inferer"](torch.randn(1, 1, 20, 18, 17), names["network"])
    assert names["bank"].oodm(noise["signature"][0]) > 10 * names["oodm"]
    assert names["bank"].is_ood(noise["signature"][0])


def test_bank_of_the_example_is_bound_to_weights_and_inferer(names):
    network, inferer = names["network"], names["inferer"]
    bank = SignatureBank.load("signature_bank.npz")
    assert bank.settings.layers == ("upcat_1",)
    assert not network.training
    with torch.no_grad():
        network.final_conv.bias += 1
    with pytest.raises(BankMismatchError, match="weights_digest"):
        bank.check(**bank_settings(inferer, (), inferer.weights_digest(network)))


def test_distance_and_c_reach_the_bank(names):
    bank = fit_bank(names["network"], names["training_scans"], names["inferer"], c=1.5, distance="mahalanobis")
    assert (bank.c, bank.settings.distance) == (1.5, "mahalanobis")
