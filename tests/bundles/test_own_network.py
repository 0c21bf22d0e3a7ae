"""The commands for any network give what a bundle of ours gives by itself."""

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.testing import assert_allclose

from common.own_network import fit_own_bank
from common.phantoms.volumes import phantom_dataset
from common.runtime.weights import load_weights
from common.spectral import SignatureBank, bank_settings

PARTS = ("network_def", "inferer", "preprocessing", "scans", "image_transforms")


def test_bank_of_a_bundle_of_ours_is_one_that_its_own_inference_takes(repository, bundle_importable, tmp_path):
    bundle, folder = repository / "bundles" / "spectral_ood", phantom_dataset(tmp_path, "pair_mr", 3)
    with bundle_importable(bundle):
        fit_own_bank(str(bundle), str(folder), bank_file=str(tmp_path / "bank.npz"), distance="nearest")
        parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
        parser.update({"dataset_dir": str(folder), "output_dir": str(tmp_path), "device": "cpu"})
        network, inferer, preprocessing, scans, transforms = map(parser.get_parsed_content, PARTS)
        load_weights(network.eval(), bundle / "models" / "model.pt")
        with torch.no_grad():
            rows = [inferer(preprocessing(scan)["image"][None], network)["signature"][0].numpy() for scan in scans]
    bank = SignatureBank.load(tmp_path / "bank.npz")
    bank.check(**bank_settings(inferer, transforms, inferer.weights_digest(network)))
    assert_allclose(bank.signatures, np.unique(rows, axis=0), rtol=0, atol=1e-7)
    assert (bank.settings.layers, bank.settings.signature_form) == (
        ("decoders.0", "decoders.1", "encoders.0", "image"),
        "full",
    )
