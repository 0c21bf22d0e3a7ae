"""``fit-bank`` and ``judge`` for networks that have nothing of ours."""

import json
import logging

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd
from numpy.testing import assert_allclose
from torch.testing import assert_close

from common.__main__ import COMMANDS
from common.command.segment import segment_scans
from common.errors import (
    BankMismatchError,
    CasesFailedError,
    ConfigError,
    MissingDataError,
    NotEnoughCasesError,
    WeightsError,
)
from common.handlers.verdicts import COLUMNS
from common.own_network import fit_own_bank, judge_scans
from common.spectral import SignatureBank, SpectralInferer, weights_digest
from tests.common.own_network.conftest import CONFIG, NETWORK

PREPARE = Compose(
    [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(2.0, 2.0, 2.0), mode="bilinear"),
        ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True),
    ]
)
"""What the bundle's config says, by MONAI's own loader."""


def direct_signatures(zoo, **settings):
    """Signatures of the training scans without a bundle, sorted as a bank's are."""
    chosen = {"divisor": 16, "overlap": 0.5, "per_voxel": True, "signature_form": "full"} | settings
    inferer = SpectralInferer((16, 16, 16), chosen.pop("layers"), **chosen)
    with torch.no_grad():
        rows = [inferer(PREPARE({"image": file})["image"][None], zoo.network)["signature"][0] for file in zoo.train]
    return np.unique(torch.stack(rows).numpy(), axis=0)


def test_bank_of_a_bundle_holds_the_signatures_of_its_own_preparation(zoo, fitted):
    bank = SignatureBank.load(fitted)
    layers = ("model.0", "model.1", "image")
    assert_allclose(bank.signatures, direct_signatures(zoo, layers=layers), rtol=1e-5, atol=1e-6)
    found = bank.settings
    assert (found.layers, found.roi_size, found.overlap, found.divisor) == (layers, (16, 16, 16), 0.5, 16)
    assert (found.per_voxel, found.signature_form, found.distance, found.sigmoid) == (
        True,
        "full",
        "clusters",
        False,
    )
    assert found.weights_digest == weights_digest(zoo.network.state_dict())
    assert len(bank.held_out.scores) == 4
    assert set(bank.ranges.names) >= {"spacing_z", "extent_x", "median_0", "noise"}


def test_new_scans_are_in_and_others_out_a_line_and_a_row_for_each(zoo, fitted, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = {}
    for name in ("new", "other"):
        judge_scans(str(zoo.bundle), str(zoo.root / name), bank_file=str(fitted), output_dir=str(tmp_path / name))
        rows[name] = pd.read_csv(tmp_path / name / "ood_report.csv")
    assert tuple(rows["new"].columns) == COLUMNS
    assert list(rows["new"]["image"]) == ["ellipsoid_ct_200", "ellipsoid_ct_201", "ellipsoid_ct_202"]
    assert not rows["new"]["is_ood"].any()
    assert rows["other"]["is_ood"].all()
    assert rows["other"]["oodm"].min() > 3 * rows["new"]["oodm"].max()
    assert rows["other"]["p_value"].tolist() == [0.2]
    lines = [line for line in caplog.messages if "OODM" in line]
    assert [line.split("  OODM ")[0] for line in lines] == [
        *(f"ellipsoid_ct_{number}  in distribution" for number in (200, 201, 202)), "tube_ct_0  OUT OF DISTRIBUTION",
    ]  # fmt: skip
    assert "noise" in lines[-1]


def test_scans_without_a_network_are_judged_by_a_bundle_as_segment_does(repository, make_dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    scan = make_dataset(tmp_path / "data", 1) / "imagesTr" / "case_0.nii.gz"
    judge_scans(str(scan), output_dir=str(tmp_path / "judged"))
    segment_scans(str(scan), output_dir=str(tmp_path / "segmented"), seed=0)
    judged, segmented = (tmp_path / name for name in ("judged", "segmented"))
    lines = [line for line in caplog.messages if "OODM" in line]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert f"bundle: {repository / 'bundles' / 'spectral_ood'}" in caplog.messages
    assert f"to look at: {judged / 'report.html'}" in caplog.messages
    assert (judged / "ood_report.csv").read_bytes() == (segmented / "ood_report.csv").read_bytes()


@pytest.mark.parametrize("option", ["bundle", "model_dir"])
def test_network_and_bundle_at_once_are_refused(tmp_path, option):
    line = rf"^judge takes a network or --{option}, not both; without 'net.ts' the bundle"
    with pytest.raises(ConfigError, match=line):
        judge_scans("net.ts", "scans", output_dir=str(tmp_path / "out"), **{option: "spectral_ood"})
    assert list(tmp_path.iterdir()) == []


def test_one_scan_is_judged_as_in_a_folder(zoo, fitted, tmp_path):
    rows = []
    for name in ("other", "other/tube_ct_0.nii.gz"):
        judge_scans(str(zoo.bundle), str(zoo.root / name), bank_file=str(fitted), output_dir=str(tmp_path))
        rows += json.loads((tmp_path / "ood_report.json").read_text())["rows"]
    assert rows[0] == rows[1]


def test_page_outlines_what_the_network_segments(zoo, fitted, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("common.handlers.report.thumbnail", lambda _, classes, limit: seen.append(classes) or "")
    file = zoo.root / "other" / "tube_ct_0.nii.gz"
    judge_scans(str(zoo.bundle), str(file), bank_file=str(fitted), output_dir=str(tmp_path))
    image = PREPARE({"image": file})["image"]
    expected = sliding_window_inference(image[None], (16, 16, 16), 4, zoo.network, overlap=0.5).argmax(1)
    assert_close(seen[0].as_tensor(), expected.as_tensor())
    assert_close(seen[0].affine, image.affine)


def test_scan_of_two_channels_fails_in_one_line_and_the_others_go_on(zoo, fitted, tmp_path, caplog):
    scans = tmp_path / "scans"
    scans.mkdir()
    array = nib.load(zoo.train[0]).get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2, 2, 1])), scans / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([array, array], axis=-1), np.eye(4)), scans / "b.nii.gz")
    with pytest.raises(CasesFailedError):
        judge_scans(str(zoo.bundle), str(scans), bank_file=str(fitted), output_dir=str(tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "ood_report.csv")
    assert table["image"].tolist() == ["a", "b"]
    assert str(table["is_ood"][0]) == "False"
    assert "has 2 channels; this bundle takes 1" in table["error"][1]


def test_torchscript_describes_image_and_segmentation(zoo, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    settings = {"bank_file": str(tmp_path / "bank.npz"), "config_file": str(tmp_path / "config.json")}
    fit_own_bank(str(zoo.root / "model.ts"), str(zoo.root / "train"), **settings)
    bank = SignatureBank.load(tmp_path / "bank.npz")
    assert bank.settings.layers == ("image", "output")
    assert_allclose(bank.signatures, direct_signatures(zoo, layers=("image", "output")), rtol=1e-5, atol=1e-6)
    assert "torch lets nobody watch the layers of TorchScript" in caplog.text
    # The same weights and settings, so the bank of the one judges with the other.
    judge_scans(str(zoo.bundle), str(zoo.root / "new"), output_dir=str(tmp_path), bank_file=settings["bank_file"])
    with pytest.raises(ConfigError, match=r"layers names 'model.0', but torch .* accepted are image, output, layout"):
        fit_own_bank(str(zoo.root / "model.ts"), str(zoo.root / "train"), layers="image,model.0", **settings)


def test_definition_and_weights_take_scans_as_they_are(zoo, tmp_path, caplog):
    settings = {"weights": str(zoo.root / "model.ts"), "roi_size": (16, 16, 16), "layers": "[model.0]"}
    fit_own_bank(json.dumps(NETWORK), str(zoo.root / "train"), bank_file=str(tmp_path / "bank.npz"), **settings)
    bank = SignatureBank.load(tmp_path / "bank.npz")
    assert (bank.settings.layers, bank.settings.overlap) == (("model.0",), 0.25)
    assert bank.settings.weights_digest == weights_digest(zoo.network.state_dict())
    assert "no preprocessing is known: scans are taken as their files hold them" in caplog.text
    with pytest.raises(
        BankMismatchError, match=r"preprocessing_digest is .*; refit it with: python -m common fit-bank"
    ):
        judge_scans(
            str(zoo.bundle), str(zoo.root / "new"), bank_file=str(tmp_path / "bank.npz"), output_dir=str(tmp_path)
        )


REFUSALS = {
    "unknown layer": (
        {"layers": "model.0,modell"},
        ConfigError,
        "layers names 'modell', .* it has: model, model.0, model",
    ),
    "missing weights": ({"weights": "nowhere.pt"}, MissingDataError, "no weights at nowhere.pt; give the file"),
    "no network": ({"network": "nowhere"}, MissingDataError, "no network at nowhere; give the folder of a bundle"),
    "no bundle": ({"network": "."}, MissingDataError, "no bundle that segments: .*configs/inference.json or .yaml"),
    "definition alone": (
        {"network": NETWORK},
        MissingDataError,
        "definition has no weights; give their file as weights",
    ),
    "other channels": ({"in_channels": 2}, ConfigError, r"image of 2 channel\(s\) .*expected input.* set in_channels"),
    "window": ({"roi_size": (15, 16, 16)}, ConfigError, r"a window of \[15, 16, 16\]: "),
    "two axes": ({"roi_size": (16, 16)}, ConfigError, "roi_size is .16, 16.; needed are 3 positive whole numbers"),
    "no scans": ({"dataset_dir": "nowhere"}, MissingDataError, "dataset_dir nowhere does not exist"),
    "rate": ({"false_alarm_rate": 0.01}, NotEnoughCasesError, "false_alarm_rate"),
    "no definition": ({"network": '{"a": 1'}, ConfigError, "definition is no JSON"),
    "no config": ({"config_file": "nowhere.json"}, MissingDataError, "no config nowhere.json"),
}


@pytest.mark.parametrize(("changes", "kind", "text"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(zoo, tmp_path, monkeypatch, changes, kind, text):
    monkeypatch.chdir(tmp_path)
    settings = {"network": str(zoo.bundle), "dataset_dir": str(zoo.root / "train")} | changes
    with pytest.raises(kind, match=text) as caught:
        fit_own_bank(**settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class TwoInputs(torch.nn.Module):
    """Takes an image and a prompt."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)

    def forward(self, image, prompt):
        return self.layer(image) * prompt


def test_network_of_two_inputs_is_refused(zoo, tmp_path):
    torch.save(TwoInputs().state_dict(), tmp_path / "model.pt")
    definition = {"_target_": f"{__name__}.TwoInputs"}
    with pytest.raises(ConfigError, match=r"missing 1 required positional argument: 'prompt'; it must take one image"):
        fit_own_bank(
            definition, str(zoo.root / "train"), weights=str(tmp_path / "model.pt"), roi_size=16,
            bank_file=str(tmp_path / "bank.npz"),
        )  # fmt: skip


def test_weights_of_another_network_and_no_torchscript_are_refused(zoo, tmp_path):
    bank = str(tmp_path / "bank.npz")
    with pytest.raises(WeightsError, match="belongs to another network"):
        fit_own_bank(NETWORK | {"channels": [4, 8]}, "x", weights=str(zoo.root / "model.ts"), bank_file=bank)
    with pytest.raises(WeightsError, match=r"model.pt is no TorchScript .* give the network's definition"):
        fit_own_bank(str(zoo.bundle / "models" / "model.pt"), "x", bank_file=bank)


def test_judge_needs_the_bank(zoo, tmp_path):
    with pytest.raises(
        MissingDataError, match=r"no signature bank at .*none.npz; fit it with: python -m common fit-bank"
    ):
        judge_scans(str(zoo.bundle), "x", bank_file=str(tmp_path / "none.npz"), output_dir=str(tmp_path))


def test_commands_go_by_their_names():
    assert (COMMANDS["fit-bank"].load(), COMMANDS["judge"].load()) == (fit_own_bank, judge_scans)


def test_logits_are_those_of_the_sliding_window(zoo, fitted):
    scan = PREPARE({"image": zoo.train[0]})["image"]
    settings = SignatureBank.load(fitted).settings
    with torch.no_grad():
        logits = SpectralInferer.of(settings)(scan[None], zoo.network)["logits"]
        expected = sliding_window_inference(scan[None], (16, 16, 16), 4, zoo.network, overlap=0.5)
    assert_close(logits, expected.as_tensor(), rtol=1e-5, atol=1e-5)


def test_decathlon_folder_gives_its_training_list_or_the_parts_of_a_split(zoo, tmp_path):
    names = [file.name.removesuffix(".nii.gz") for file in zoo.train]
    listing = {"training": [{"image": str(file)} for file in zoo.train[:6]], "test": [str(zoo.train[6])]}
    (tmp_path / "organ").mkdir()
    (tmp_path / "organ" / "dataset.json").write_text(json.dumps(listing))
    (tmp_path / "split.json").write_text(json.dumps({"train": {"organ": names[:4]}, "val": {"organ": names[4:6]}}))
    numbers = []
    for split_file in (None, str(tmp_path / "split.json")):
        settings = {"bank_file": str(tmp_path / "bank.npz"), "layers": "image", "split_file": split_file}
        fit_own_bank(str(zoo.bundle), str(tmp_path / "organ"), **settings)
        bank = SignatureBank.load(tmp_path / "bank.npz")
        numbers.append((len(bank.signatures), len(bank.held_out.scores)))
    assert numbers == [(6, 0), (4, 2)]
    with pytest.raises(ConfigError, match="held_out_dir and split_file both name scans"):
        fit_own_bank(str(zoo.bundle), str(tmp_path / "organ"), held_out_dir=str(zoo.root / "held_out"), **settings)
