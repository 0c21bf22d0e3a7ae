"""MONAI Label's own app ``monaibundle`` serves every bundle from its archive: what the bundle's page promises."""

import json
import os
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from common.spectral import SignatureBank

pytestmark = [pytest.mark.label, pytest.mark.slow]

DATA = Path(os.environ.get("MEDICAL_DATA_DIR") or "-")
TURNED = np.array([[0, -1.2, 0, 30], [0, 0, 1.1, -8], [0.9, 0, 0, 4], [0, 0, 0, 1]])
"""An affine whose axes point to superior, left and anterior, in mm."""


@pytest.fixture(scope="module")
def folder(models, make_studies, scans, download_app, tmp_path_factory):
    """The app as it is downloaded, with all bundles in it, and a folder of studies."""
    folder = tmp_path_factory.mktemp("stock")
    shutil.copytree(models, download_app(folder))
    studies = make_studies(folder)
    nib.save(nib.Nifti1Image(np.full((24, 28, 32), 7, np.float32), np.eye(4)), studies / "constant.nii.gz")
    nib.save(nib.Nifti1Image(scans["known_0"].astype(np.float32), TURNED), studies / "turned.nii.gz")
    for name in ("series", "gap"):
        write_series(folder / name, scans["known_0"])
    (folder / "gap" / "9.dcm").unlink()
    return folder


@pytest.fixture(scope="module")
def server(serve_app, folder):
    with serve_app(folder) as server:
        yield server


def write_series(folder, array):
    """Writes an axial DICOM series whose geometry is ``SERIES_AFFINE``."""
    folder.mkdir()
    for index in range(array.shape[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[str(index)])
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = "1.2.826.0.1.7", "MR", 1 + index
        data.ImagePositionPatient = [-8.0, 4, 20 + 2.5 * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.9, 0.7], 2.5
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.PixelData = np.clip(array[:, :, index].T, 0, None).astype(np.uint16).tobytes()
        data.save_as(folder / f"{index}.dcm", enforce_file_format=True)


SERIES_AFFINE = np.array([[-0.7, 0, 0, 8], [0, -0.9, 0, -4], [0, 0, 2.5, 20], [0, 0, 0, 1]])


def bank_of(folder, model):
    """The bank in an app's folder; ``None`` where the bundle judges nothing."""
    file = folder / "apps" / "monaibundle" / "model" / model / "models" / "signature_bank.npz"
    return SignatureBank.load(file) if file.is_file() else None


def first_choices(config):
    """The settings that a client sends when its user changes none: the first of every list."""
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}


def verdict(params):
    return {key: params[key] for key in ("oodm", "threshold", "is_ood", "reason")}


def array_of(image):
    return np.asarray(image.dataobj)


def test_server_lists_bundles_with_labels_and_versions(server, bundle, repository):
    metadata = json.loads((repository / "bundles" / bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    labels = {name.lower(): int(index) for index, name in channels.items() if name != "background"}
    info = server.json("GET", "info/")
    for model, version in ((bundle, metadata["version"]), (f"{bundle}_copy", "9.9.9")):
        assert info["models"][model]["labels"] == labels
        assert info["models"][model]["version"] == version
        assert info["trainers"][model]["version"] == version
    assert info["models"][bundle]["type"] == "segmentation"


def test_response_carries_the_verdict_in_every_form(server, folder, bundle):
    params, image = server.segment(bundle, "known_1")
    asked = server.judge(bundle, "known_1")
    status, _, content = server.ask("POST", f"infer/{bundle}", image="known_1", output="image")
    assert status == 200
    (folder / "alone.nii.gz").write_bytes(content)
    alone = nib.load(folder / "alone.nii.gz")
    np.testing.assert_array_equal(array_of(alone), array_of(image))
    assert set(params) == set(asked)
    assert params["label_names"] == asked["label_names"] == server.json("GET", "info/")["models"][bundle]["labels"]
    bank = bank_of(folder, bundle)
    if bank:
        assert verdict(params) == verdict(asked)
        assert params["threshold"] == bank.threshold
        assert [type(params[key]) for key in ("oodm", "threshold", "is_ood")] == [float, float, bool]
        assert params["is_ood"] is (params["oodm"] > params["threshold"])
        assert params["reason"] is None


def test_server_gives_what_the_command_line_gives(server, folder, bundle, run_inference, tmp_path):
    """``inference.json`` alone, in the main environment, with its other versions of numpy and pydicom."""
    (tmp_path / "studies").mkdir()
    for name in ("known_0", "turned", "inverted", "noise"):
        shutil.copy(folder / "studies" / f"{name}.nii.gz", tmp_path / "studies")
    model = folder / "apps" / "monaibundle" / "model" / bundle
    rows = run_inference(model, tmp_path / "studies", tmp_path / "results")["rows"]
    assert len(rows) == 4
    for row in rows:
        params, image = server.segment(bundle, row["image"])
        expected = nib.load(tmp_path / "results" / row["image"] / f"{row['image']}_seg.nii.gz")
        np.testing.assert_array_equal(array_of(image), array_of(expected))
        np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)
        if bank_of(folder, bundle):
            assert params["oodm"] == pytest.approx(row["oodm"], rel=1e-3)
            assert params["threshold"] == pytest.approx(row["threshold"], rel=1e-9)
            assert params["is_ood"] is row["is_ood"]


def test_each_of_two_bundles_runs_its_own_code_with_its_own_bank(server, folder, bundle):
    for model in (f"{bundle}_copy", bundle, f"{bundle}_copy"):
        params = server.judge(model, "known_2")
        assert params.get("code") == ("of the copy" if model.endswith("_copy") else None)
        bank = bank_of(folder, model)
        if bank:
            assert params["threshold"] == bank.threshold
    first, second = (bank_of(folder, model) for model in (bundle, f"{bundle}_copy"))
    assert first is None or first.threshold != second.threshold


def test_strange_scans_are_told_from_known_ones(server, folder, bundle):
    """By the bank of phantoms; the shipped one, of hippocampi, finds phantoms strange altogether."""
    if not bank_of(folder, bundle):
        pytest.skip("this bundle does not judge scans")
    known = [server.judge(f"{bundle}_copy", f"known_{index}")["is_ood"] for index in range(5)]
    strange = [server.judge(f"{bundle}_copy", name)["is_ood"] for name in ("inverted", "noise", "blurred")]
    assert (known, strange) == ([False] * 5, [True] * 3)
    assert server.judge(bundle, "known_0")["is_ood"] is True


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="MEDICAL_DATA_DIR names no folder of real scans")
def test_shipped_weights_judge_real_scans(server, bundle, repository, tmp_path):
    """A test case, a hippocampus of another source as a DICOM series, and the center of another organ."""
    if bundle != "spectral_ood":
        pytest.skip("these scans are for the weights of spectral_ood")
    split = json.loads((repository / "bundles/spectral_ood/docs/split.json").read_text(encoding="utf-8"))
    case = f"{min(split['test']['hippocampus_mri'])}.nii.gz"
    params, image = server.segment("spectral_ood", str(DATA / "hippocampus_mri" / "imagesTr" / case))
    found, label = array_of(image) > 0, array_of(nib.load(DATA / "hippocampus_mri" / "labelsTr" / case)) > 0
    assert params["is_ood"] is False
    assert 2 * (found & label).sum() / (found.sum() + label.sum()) > 0.8
    series = server.judge("spectral_ood", str(DATA / "dicom" / "hippocampus_crop"), result_extension=".nii.gz")
    assert series["is_ood"] is False
    atrium = nib.load(min((DATA / "left_atrium_mri" / "imagesTr").glob("*.nii.gz")))
    start = [(size - part) // 2 for size, part in zip(atrium.shape, (36, 50, 36), strict=True)]
    crop = atrium.slicer[tuple(slice(at, at + part) for at, part in zip(start, (36, 50, 36), strict=True))]
    nib.save(crop, tmp_path / "atrium.nii.gz")
    assert server.judge("spectral_ood", str(tmp_path / "atrium.nii.gz"))["is_ood"] is True


def test_segmentation_has_the_geometry_of_the_scan(server, folder, bundle):
    """A scan stored along other axes is another file of the same scan."""
    plain, straight = server.segment(bundle, "known_0")
    params, turned = server.segment(bundle, "turned", result_dtype="uint8")
    scan = nib.load(folder / "studies" / "turned.nii.gz")
    assert turned.shape == scan.shape
    np.testing.assert_allclose(turned.affine, scan.affine, atol=1e-5)
    assert turned.get_data_dtype() == np.uint8
    assert set(params) == set(plain)
    assert straight.affine.tolist() == np.eye(4).tolist()


def test_viewer_that_asks_for_nrrd_gets_the_same(server, folder, bundle):
    """What 3D Slicer's module sends: every option that ``/info/`` lists, and a file of its kind."""
    options = first_choices(server.json("GET", "info/")["models"][bundle]["config"])
    expected, image = server.segment(bundle, "known_0")
    params, content = server.answer(bundle, "known_0", **options, result_extension=".nrrd", result_dtype="uint8")
    (folder / "answer.nrrd").write_bytes(content)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(folder / "answer.nrrd"))).T, array_of(image))
    assert {**params, "latencies": None} == {**expected, "latencies": None}


def test_dicom_series_is_segmented_where_it_lies(server, folder, bundle, scans):
    params, image = server.segment(bundle, str(folder / "series"), result_extension=".nii.gz")
    assert image.shape == scans["known_0"].shape
    np.testing.assert_allclose(image.affine, SERIES_AFFINE, atol=1e-4)
    twin = folder / "twin.nii.gz"
    nib.save(nib.Nifti1Image(scans["known_0"].astype(np.float32), SERIES_AFFINE), twin)
    expected, segmentation = server.segment(bundle, str(twin))
    np.testing.assert_array_equal(array_of(image), array_of(segmentation))
    if bank_of(folder, bundle):
        assert params["oodm"] == pytest.approx(expected["oodm"], rel=1e-6)
        assert params["is_ood"] is expected["is_ood"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("constant", "case 'constant.nii.gz': every voxel is 7; a constant image shows nothing"),
        ("gap", "DicomError: "),
    ],
)
def test_bad_scan_is_an_error_after_which_the_server_goes_on(server, folder, bundle, image, reason):
    before = server.judge(bundle, "known_3")
    given = str(folder / image) if (folder / image).is_dir() else image
    params = {"params": json.dumps({"result_extension": ".nii.gz"})}
    status, _, _ = server.ask("POST", f"infer/{bundle}", fields=params, image=given)
    assert status == 500
    assert server.logged(reason)
    after = server.judge(bundle, "known_3")
    assert {**before, "latencies": None} == {**after, "latencies": None}


def test_other_weights_than_the_banks_give_no_verdict_but_a_segmentation(server, folder, bundle, tmp_path):
    """As in the moments of training between writing the weights and writing the bank."""
    weights = folder / "apps" / "monaibundle" / "model" / bundle / "models" / "model.pt"
    if not bank_of(folder, bundle):
        pytest.skip("this bundle does not judge scans")
    before, expected = server.segment(bundle, "known_0")
    shutil.copy2(weights, tmp_path)
    state = torch.load(weights, weights_only=True)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    torch.save(state | {name: state[name] * 1.001}, weights)
    params, image = server.segment(bundle, "known_0")
    assert (params["oodm"], params["threshold"], params["is_ood"]) == (None, None, None)
    assert "weights_digest" in params["reason"]
    assert "fit_bank" in params["reason"]
    assert (array_of(image) == array_of(expected)).mean() > 0.99
    shutil.copy2(tmp_path / "model.pt", weights)
    after, image = server.segment(bundle, "known_0")
    assert verdict(after) == verdict(before)
    np.testing.assert_array_equal(array_of(image), array_of(expected))


@pytest.fixture(scope="module")
def labeled(server, bundle, labels, tmp_path_factory):
    """Four images with final labels: what was found and what a hand has added, so that training starts with overlap."""
    file = tmp_path_factory.mktemp("corrected") / "label.nii.gz"
    for name in sorted(labels)[:4]:
        _, found = server.segment(bundle, name)
        corrected = (array_of(found) > 0) | (array_of(nib.load(labels[name])) > 0)
        nib.save(nib.Nifti1Image(corrected.astype(np.uint8), np.eye(4)), file)
        assert server.label(name, file) == {"image": name, "label": name}
    return sorted(labels)[:4]


def test_training_replaces_weights_and_bank_and_never_gives_a_stale_verdict(server, folder, bundle, labeled):
    model, seen = folder / "apps" / "monaibundle" / "model" / bundle, []
    bank, before = bank_of(folder, bundle), server.judge(bundle, "known_4")
    other = server.judge(f"{bundle}_copy", "known_4")
    weights = (model / "models" / "model.pt").read_bytes()

    def infer():
        params, image = server.segment(bundle, "known_4")
        assert image.shape == (24, 28, 32)
        seen.append(params)

    server.train(bundle, infer, max_epochs=1, device="cpu", val_split=0.34, multi_gpu=False)
    after = server.judge(bundle, "known_4")
    assert (model / "models" / "model.pt").read_bytes() != weights
    split = json.loads((model / "output" / "split.json").read_text(encoding="utf-8"))
    assert sorted(name for part in split.values() for names in part.values() for name in names) == labeled
    if bank:
        refitted = bank_of(folder, bundle)
        assert after["threshold"] == refitted.threshold != before["threshold"]
        assert len(refitted.signatures) < len(bank.signatures)
        assert after["is_ood"] is (after["oodm"] > after["threshold"])
        for params in seen:
            withheld = params["oodm"] is params["threshold"] is params["is_ood"] is None and params["reason"]
            assert withheld or verdict(params) in (verdict(before), verdict(after))
        assert verdict(seen[0]) == verdict(before)
        assert verdict(server.judge(f"{bundle}_copy", "known_4")) == verdict(other)


def test_training_that_was_stopped_is_mended_by_fitting_the_bank_alone(server, folder, bundle, labeled):
    """Training as 3D Slicer's module asks for it, with every option that ``/info/`` lists, an empty ``run_id`` too."""
    if bundle != "spectral_ood":
        pytest.skip("the same for every bundle, and it takes two trainings")
    model = f"{bundle}_copy"
    weights = folder / "apps" / "monaibundle" / "model" / model / "models" / "model.pt"
    before, trained = server.judge(model, "known_4"), weights.read_bytes()
    options = first_choices(server.json("GET", "info/")["trainers"][model]["config"])
    assert options["run_id"] == ""
    server.train(model, **options | {"max_epochs": 1, "val_split": 0.34})
    assert weights.read_bytes() != trained
    if bank_of(folder, bundle):
        after = server.judge(model, "known_4")
        assert after["threshold"] == bank_of(folder, model).threshold != before["threshold"]
        weights.write_bytes(trained)
        assert server.judge(model, "known_4")["oodm"] is None
        server.train(model, run_id="fit_bank", device="cpu", val_split=0.34, multi_gpu=False)
        mended = server.judge(model, "known_4")
        assert mended["reason"] is None
        assert mended["threshold"] == bank_of(folder, model).threshold != after["threshold"]
        assert weights.read_bytes() == trained
