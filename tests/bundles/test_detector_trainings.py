"""Trainings of networks that detectors are made of, and the comparison that takes them."""

import pytest
import torch
from monai.bundle import ConfigParser

from tests.running import importable


@pytest.fixture
def spectral(all_bundles):
    return next(bundle for bundle in all_bundles if bundle.name == "spectral_ood")


@pytest.mark.parametrize(("overlay", "members"), [("exposure.json", 0), ("lee.json", 4), ("mixup.json", 0)])
def test_networks_are_trained_by_an_overlay(spectral, run_config, tmp_path, overlay, members):
    run_config(spectral, ["train.json", overlay], output_dir=tmp_path, samples_per_epoch=1, roi_size=[16, 16, 16])
    assert (tmp_path / "models" / "model.pt").is_file()
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]) == members


def test_comparison_takes_the_files_of_its_settings(spectral, tmp_path):
    parser = ConfigParser()
    parser.read_config([str(spectral / "configs" / f"{name}.json") for name in ("evaluate", "detectors")])
    parser.update({"output_dir": str(tmp_path), "lee_file": "lee.pt", "ensemble_files": ["a.pt", "b.pt"]})
    with importable(spectral):
        comparison = parser.get_parsed_content("comparison")
    catalog = comparison.catalog
    assert (catalog.lee_file, catalog.ensemble_files, catalog.exposure_file) == ("lee.pt", ("a.pt", "b.pt"), None)
    assert catalog.layers[-1] == "decoders.0"
    # Dropout is there for the passes that want it; names of weights stay.
    assert {module.p for module in comparison.network.modules() if "Dropout" in type(module).__name__} == {0.1}
    assert {"crop", "thick_slices_3"} < {case["group"] for case in comparison.data}
