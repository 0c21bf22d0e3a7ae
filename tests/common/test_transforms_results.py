import json
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch import nn

from common.errors import OutputError
from common.spectral import SignatureBank, SpectralInferer, bank_settings, preprocessing_digest, weights_digest
from common.spectral.bank import REFIT_COMMAND
from common.spectral.verdict import RESULT, SpectralVerdictd
from common.transforms import LoadScand, NormalizeByModalityd, SaveSegmentationd

AFFINE = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, -3, 7], [0, 0, 0, 1]])


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def segmented(path, key="image"):
    """A loaded image and a segmentation with the classes 0, 1 and 2 in its geometry."""
    image = LoadScand("image")({"image": str(path), "case": "p1"})["image"]
    return MetaTensor((image % 3).to(torch.uint8), meta=image.meta)


def test_volume_is_saved_in_the_geometry_of_the_input(tmp_path, save_nifti):
    scan = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    pred = segmented(save_nifti(tmp_path / "a.nii.gz", scan, AFFINE))
    data = {"pred": pred, "case": "p1"}
    assert SaveSegmentationd("pred", str(tmp_path / "out"))(data) == data
    saved = nib.load(tmp_path / "out" / "p1" / "p1_seg.nii.gz")
    assert_allclose(saved.affine, AFFINE)
    assert saved.get_data_dtype() == np.uint8
    assert_array_equal(np.asarray(saved.dataobj), scan % 3)
    assert files_below(tmp_path / "out") == ["p1/p1_seg.nii.gz"]


def test_reoriented_volume_is_saved_in_the_geometry_of_the_input(tmp_path, save_nifti):
    scan = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    image = LoadScand("image")({"image": save_nifti(tmp_path / "a.nii.gz", scan, AFFINE)})
    turn = Orientationd("image", "RAS", labels=None)
    turned = turn(image)
    pred = turn.inverse({"image": (turned["image"] % 3).to(torch.uint8)})["image"]
    SaveSegmentationd("pred", str(tmp_path / "out"))({"pred": pred, "case": "p1"})
    saved = nib.load(tmp_path / "out" / "p1" / "p1_seg.nii.gz")
    assert_allclose(saved.affine, AFFINE)
    assert_array_equal(np.asarray(saved.dataobj), scan % 3)


def test_picture_is_saved_with_its_class_indices(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pred = segmented(tmp_path / "a.png")
    SaveSegmentationd("pred", str(tmp_path / "out"), spatial_dims=2)({"pred": pred, "case": "p1"})
    with Image.open(tmp_path / "out" / "p1" / "p1_seg.png") as saved:
        assert_array_equal(np.asarray(saved), pixels % 3)


def test_failed_write_is_named_and_leaves_nothing(tmp_path, save_nifti):
    pred = segmented(save_nifti(tmp_path / "a.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5)))
    (tmp_path / "out" / "p1" / "p1_seg.nii.gz").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*p1_seg\.nii\.gz"):
        SaveSegmentationd("pred", str(tmp_path / "out"))({"pred": pred, "case": "p1"})
    assert files_below(tmp_path / "out") == []


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(1, 3, 1)
        self.head = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return self.head(self.features(image))


@pytest.fixture
def judged(tmp_path):
    """A network with its bank, and a judge that reads the bank; settings of either may be changed."""
    network, inferer = Network(), SpectralInferer((8, 8), ["features"])
    generator = torch.Generator().manual_seed(0)
    images = 1 + 0.1 * torch.randn(6, 1, 8, 8, generator=generator)
    with torch.no_grad():
        rows = inferer(images, network)["signature"]
    transforms = [NormalizeByModalityd("image", "MR")]
    settings = bank_settings(inferer, transforms, weights_digest(network.state_dict()))
    SignatureBank.fit(rows, **settings).save(tmp_path / "bank.npz")

    def judge(image, inferer=inferer, transforms=transforms, bank="bank.npz", **data):
        with torch.no_grad():
            prediction = {key: value[0] for key, value in inferer(image, network).items()}
        verdict = SpectralVerdictd("pred", str(tmp_path / bank), inferer, transforms)
        return verdict({"pred": prediction} | data), prediction

    judge.images, judge.network, judge.folder = images, network, tmp_path
    return judge


def test_settings_in_use_go_by_the_names_of_the_bank():
    inferer, transforms = SpectralInferer((8, 8), ["a"], per_voxel=True), [NormalizeByModalityd("image", "CT")]
    assert bank_settings(inferer, transforms, "d") == {
        "layers": ("a",),
        "per_voxel": True,
        "signature_form": "unit",
        "sigmoid": False,
        "precision": "float32",
        "roi_size": (8, 8),
        "overlap": 0.25,
        "divisor": 8,
        "weights_digest": "d",
        "preprocessing_digest": preprocessing_digest(transforms),
    }


@pytest.mark.parametrize(("factor", "is_ood"), [(1.0, False), (50.0, True)])
def test_verdict_is_that_of_the_bank(judged, factor, is_ood):
    data, prediction = judged(factor * judged.images[:1])
    bank = SignatureBank.load(judged.folder / "bank.npz")
    oodm = bank.oodm(prediction["signature"])
    told = {"oodm": oodm, "threshold": bank.threshold, "is_ood": is_ood, "p_value": bank.p_value(oodm)}
    assert data["result"] == dict.fromkeys(RESULT) | told
    assert (oodm > bank.threshold) is is_ood
    assert torch.equal(data["pred"], prediction["logits"])
    assert torch.equal(data["signature"], prediction["signature"])


def test_verdict_holds_plain_values_beside_what_is_there(judged):
    data, _ = judged(judged.images[:1], result={"label_names": {"organ": 1}})
    assert data["result"]["label_names"] == {"organ": 1}
    assert json.loads(json.dumps(data["result"])) == data["result"]
    assert [type(data["result"][key]) for key in ("oodm", "threshold", "is_ood")] == [float, float, bool]


def test_new_bank_is_read_without_a_restart(judged):
    first, _ = judged(judged.images[:1])
    bank = SignatureBank.load(judged.folder / "bank.npz")
    SignatureBank.fit(bank.signatures, c=bank.c + 1, **vars(bank.settings)).save(judged.folder / "bank.npz")
    second, _ = judged(judged.images[:1])
    assert second["result"]["threshold"] > first["result"]["threshold"]


@pytest.fixture
def read_banks(judged, monkeypatch):
    """One judge for several scans, and the files that it has read."""
    read = []
    load = SignatureBank.load
    monkeypatch.setattr(
        "common.spectral.bank_files.SignatureBank.load", lambda path: read.append(str(path)) or load(path)
    )
    inferer = SpectralInferer((8, 8), ["features"])
    verdict = SpectralVerdictd("pred", str(judged.folder / "bank.npz"), inferer, [NormalizeByModalityd("image", "MR")])

    def judge(index=0):
        with torch.no_grad():
            batch = inferer(judged.images[index : index + 1], judged.network)
        return verdict({"pred": {key: value[0] for key, value in batch.items()}})["result"]

    judge.bank, judge.read = judged.folder / "bank.npz", read
    return judge


def test_unchanged_bank_is_read_once(read_banks):
    results = [read_banks(index) for index in (0, 1, 2)]
    assert read_banks.read == [str(read_banks.bank)]
    assert [result["reason"] for result in results] == [None] * 3
    assert len({result["threshold"] for result in results}) == 1


@pytest.mark.parametrize("change", ["content", "time"])
def test_bank_that_has_changed_is_read_again_by_the_same_judge(read_banks, change):
    first, status = read_banks(), read_banks.bank.stat()
    bank = SignatureBank.load(read_banks.bank)
    read_banks.read.clear()
    # Either another size at the same time, or another time at the same size.
    rows = bank.signatures[:-1] if change == "content" else bank.signatures
    SignatureBank.fit(rows, c=bank.c + 1, **vars(bank.settings)).save(read_banks.bank)
    later = status.st_mtime_ns + (change == "time")
    os.utime(read_banks.bank, ns=(later, later))
    assert (read_banks.bank.stat().st_size == status.st_size) is (change == "time")
    second = [read_banks() for _ in range(2)]
    assert [result["threshold"] for result in second] == [SignatureBank.load(read_banks.bank).threshold] * 2
    assert second[0]["threshold"] != first["threshold"]
    assert len(read_banks.read) == 2  # the judge's one and this test's one


@pytest.mark.parametrize("spoil", ["remove", "truncate"])
def test_bank_that_was_read_does_not_outlive_its_file(read_banks, spoil):
    content, first = read_banks.bank.read_bytes(), read_banks()
    read_banks.bank.unlink()
    if spoil == "truncate":
        read_banks.bank.write_bytes(content[:99])
    gone = read_banks()
    assert (gone["oodm"], gone["threshold"], gone["is_ood"]) == (None, None, None)
    assert REFIT_COMMAND in gone["reason"]
    read_banks.bank.write_bytes(content)
    assert read_banks() == first


def spoil_weights(judge):
    nn.init.ones_(judge.network.head.weight)
    return {}


def truncate_bank(judge):
    path = judge.folder / "bank.npz"
    path.write_bytes(path.read_bytes()[:99])
    return {}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda judge: {"bank": "absent.npz"}, "no signature bank at "),
        (truncate_bank, r"is not a \w+ signature bank"),
        (spoil_weights, "weights_digest is "),
        (lambda judge: {"transforms": [NormalizeByModalityd("image", "CT")]}, "preprocessing_digest is "),
        (lambda judge: {"inferer": SpectralInferer((8, 8), ["features"], per_voxel=True)}, "per_voxel is True"),
        (lambda judge: {"inferer": SpectralInferer((8, 8), ["head"])}, r"layers is \('head',\)"),
        (lambda judge: {"inferer": SpectralInferer((8, 16), ["features"])}, r"roi_size is \(8, 16\)"),
        (lambda judge: {"inferer": SpectralInferer((8, 8), ["features"], overlap=0.5)}, "overlap is 0.5"),
        (lambda judge: {"inferer": SpectralInferer((8, 8), ["features"], divisor=4)}, "divisor is 4"),
    ],
)
def test_without_a_valid_bank_the_verdict_is_null_with_the_reason(judged, prepare, reason):
    data, prediction = judged(judged.images[:1], **prepare(judged))
    result = data["result"]
    assert (result["oodm"], result["threshold"], result["is_ood"]) == (None, None, None)
    assert re.search(reason, result["reason"])
    assert REFIT_COMMAND in result["reason"]
    assert torch.equal(data["pred"], prediction["logits"])
