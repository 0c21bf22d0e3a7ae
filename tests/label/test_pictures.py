"""MONAI Label's own app serves the bundles of pictures, with PNG and JPEG files as studies."""

import io
import json
import shutil
import time

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from common.phantoms.volumes import phantom_dataset
from common.spectral import SignatureBank

pytestmark = [pytest.mark.label, pytest.mark.slow]

SPATIAL_DIMS = 2
SEED = 77
"""Of phantoms that the shipped weights have not seen."""
NUM_KNOWN = 6
REQUEST = {"max_epochs": 1, "device": "cpu", "val_split": 0.34, "multi_gpu": False}


@pytest.fixture(scope="module")
def folder(install, download_app, tmp_path_factory):
    """The app as it is downloaded, with all bundles of pictures in it, and one folder of studies for all."""
    folder = tmp_path_factory.mktemp("pictures")
    models = download_app(folder)
    install(SPATIAL_DIMS, models)
    for part in ("studies", "labels"):
        (folder / part).mkdir()
    for model in models.iterdir():
        write_studies(folder, model.name, read(model / "configs" / "train.json")["phantom_tasks"])
    return folder


def write_studies(folder, bundle, tasks):
    """Writes known pictures and their labels, all with foreground, and pictures that are strange or cannot be used."""
    known = phantom_dataset(folder / "phantoms", *tasks, NUM_KNOWN, spatial_dims=2, seed=SEED)
    items = [item for item in read(known / "dataset.json")["training"] if array_of(known / item["label"]).any()]
    for index, item in enumerate(items[:NUM_KNOWN]):
        for key, part in (("image", "studies"), ("label", "labels")):
            shutil.copy(known / item[key], folder / part / f"{bundle}_known_{index}.png")
    first = array_of(known / items[0]["image"])
    noise = np.random.default_rng(0).integers(0, 256, first.shape, dtype=np.uint8)
    alpha = np.full((*first.shape[:2], 1), 255, np.uint8)
    pictures = {"inverted": 255 - first, "noise": noise, "constant": np.full_like(first, 7)}
    pictures |= {"gray": first[..., 0], "transparent": np.concatenate([first, alpha], axis=-1)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / "studies" / f"{bundle}_{name}.png")
    Image.fromarray(first).save(folder / "studies" / f"{bundle}_lossy.jpg", quality=95)
    nib.save(nib.Nifti1Image(first[..., :2], np.eye(4)), folder / "studies" / f"{bundle}_volume.nii.gz")
    content = (known / items[0]["image"]).read_bytes()
    (folder / "studies" / f"{bundle}_broken.png").write_bytes(content[: len(content) // 2])


@pytest.fixture(scope="module")
def server(serve_app, folder):
    with serve_app(folder) as server:
        yield server


@pytest.fixture
def model(folder, bundle):
    """The folder of the bundle that is served."""
    return folder / "apps" / "monaibundle" / "model" / bundle


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def array_of(source):
    """The pixels of a file, or of its bytes."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return np.asarray(picture)


def known(bundle):
    return [f"{bundle}_known_{index}" for index in range(NUM_KNOWN)]


def untimed(params):
    return {key: value for key, value in params.items() if key != "latencies"}


def test_server_lists_bundles_as_those_of_pictures(server, bundle, repository):
    metadata = read(repository / "bundles" / bundle / "configs" / "metadata.json")
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    info = server.json("GET", "info/")
    assert info["models"][bundle]["labels"] == {
        name: int(key) for key, name in channels.items() if name != "background"
    }
    assert info["models"][bundle]["dimension"] == 2
    assert info["models"][bundle]["type"] == "segmentation"
    assert info["models"][bundle]["version"] == info["trainers"][bundle]["version"] == metadata["version"]


@pytest.fixture
def knows_phantoms(bundle, repository):
    """Whether the shipped weights were trained on phantoms."""
    return "phantom" in read(repository / "bundles" / bundle / "configs" / "metadata.json")["data_source"]


def test_segmentation_is_a_picture_of_class_numbers(server, folder, bundle, knows_phantoms):
    """As a client gets it that sets nothing, and as one that asks for a kind of file; in place, too."""
    found, truth = [], []
    for name in known(bundle)[:3]:
        params, content = server.answer(bundle, name)
        assert params["reason"] is None
        assert params["threshold"] > 0
        assert params["is_ood"] is (params["oodm"] > params["threshold"])
        pixels = array_of(content)
        assert (pixels.dtype, pixels.shape) == (np.uint8, array_of(folder / "labels" / f"{name}.png").shape)
        assert set(np.unique(pixels)) <= {0, *params["label_names"].values()}
        found.append(pixels.ravel() > 0)
        truth.append(array_of(folder / "labels" / f"{name}.png").ravel() > 0)
    found, truth = np.concatenate(found), np.concatenate(truth)
    # Of others, phantoms are pictures of another kind.
    if knows_phantoms:
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7
    asked, same = server.answer(bundle, name, result_extension=".png", result_dtype="uint8")
    assert (untimed(asked), same) == (untimed(params), content)
    assert server.ask("POST", f"infer/{bundle}", image=name, output="image")[2] == content
    assert untimed(server.judge(bundle, name)) == untimed(params)


def test_viewer_that_asks_for_nrrd_gets_the_same(server, folder, bundle):
    """What 3D Slicer's module sends: the first of every option that ``/info/`` lists, and a file of its kind."""
    config = server.json("GET", "info/")["models"][bundle]["config"]
    options = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    _, expected = server.answer(bundle, known(bundle)[0])
    _, content = server.answer(bundle, known(bundle)[0], **options, result_extension=".nrrd", result_dtype="uint8")
    (folder / "answer.nrrd").write_bytes(content)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(folder / "answer.nrrd"))), array_of(expected))


def test_server_gives_what_the_command_line_gives(server, folder, model, bundle, run_inference, tmp_path):
    """``inference.json`` alone, in the main environment. Of a JPEG, the classes must not come as another."""
    (tmp_path / "studies").mkdir()
    names = [*known(bundle)[:2], *(f"{bundle}_{name}" for name in ("inverted", "noise", "lossy"))]
    for name in names:
        shutil.copy(next((folder / "studies").glob(f"{name}.*")), tmp_path / "studies")
    rows = run_inference(model, tmp_path / "studies", tmp_path / "results")["rows"]
    assert sorted(row["image"] for row in rows) == sorted(names)
    for row in rows:
        params, content = server.answer(bundle, row["image"], result_extension=".png")
        expected = array_of(tmp_path / "results" / row["image"] / f"{row['image']}_seg.png")
        np.testing.assert_array_equal(array_of(content), expected)
        assert params["oodm"] == pytest.approx(row["oodm"], rel=1e-3)
        assert params["threshold"] == pytest.approx(row["threshold"], rel=1e-9)
        assert params["is_ood"] is row["is_ood"]
        assert params["reason"] is row["error"] is None


def test_strange_pictures_are_told_from_known_ones(server, bundle, knows_phantoms):
    flagged = sum(server.judge(bundle, name)["is_ood"] for name in known(bundle))
    assert flagged <= 1 if knows_phantoms else flagged == NUM_KNOWN
    for name in ("inverted", "noise"):
        assert server.judge(bundle, f"{bundle}_{name}")["is_ood"] is True


BAD = {
    "broken.png": "cannot be read",
    "gray.png": "has 1 channels; this bundle takes 3",
    "transparent.png": "has 4 channels; this bundle takes 3",
    "constant.png": "every voxel is 7",
    "volume.nii.gz": "this bundle takes 2-D images",
}


def test_bad_pictures_are_errors_after_which_the_server_goes_on(server, bundle):
    before = server.judge(bundle, known(bundle)[0])
    for name, reason in BAD.items():
        case = f"'{bundle}_{name}': "
        assert server.ask("POST", f"infer/{bundle}", image=f"{bundle}_{name.partition('.')[0]}")[0] == 500
        assert server.logged(case)
        assert reason in server.log.read_text(encoding="utf-8").rpartition(case)[2].splitlines()[0]
    assert untimed(server.judge(bundle, known(bundle)[0])) == untimed(before)


@pytest.fixture
def labeled(server, folder, bundle):
    """Known pictures with final labels, which are taken away again: training takes every label of the store."""
    for name in known(bundle):
        assert server.label(name, folder / "labels" / f"{name}.png") == {"image": name, "label": name}
    yield known(bundle)
    for name in known(bundle):
        assert server.ask("DELETE", "datastore/label", id=name, tag="final")[0] == 200
    deadline = time.monotonic() + 30
    while server.json("GET", "info/")["datastore"]["completed"]:
        assert time.monotonic() < deadline, server.tail()
        time.sleep(0.1)


def test_training_replaces_weights_and_bank(server, model, bundle, labeled):
    """Fine-tunes the weights that are there; a denoiser would need a healthy picture, and none is labeled."""
    files = {file.name: file.read_bytes() for file in (model / "models").iterdir()}
    before = server.judge(bundle, labeled[0])
    log = server.train(bundle, **REQUEST)
    assert f"starts from the weights in {model / 'models' / 'model.pt'}" in log
    changed = {file.name for file in (model / "models").iterdir() if file.read_bytes() != files.get(file.name)}
    before_training = json.loads(files["model_settings.json"])
    # Which numbers of a data set were the classes, and their names, say nothing of the labels of a server.
    named = before_training["foreground_labels"] or before_training.get("class_names")
    settings = {"model_settings.json"} if named else set()
    assert changed == {"model.pt", "signature_bank.npz", "split.json"} | settings
    split = read(model / "models" / "split.json")
    assert split == read(model / "output" / "split.json")
    assert sorted(name for part in split.values() for names in part.values() for name in names) == labeled
    bank = SignatureBank.load(model / "models" / "signature_bank.npz")
    assert len(bank.signatures) == sum(len(names) for names in split["train"].values())
    params, content = server.answer(bundle, labeled[0])
    assert params["reason"] is None
    assert params["threshold"] == bank.threshold != before["threshold"]
    assert params["is_ood"] is (params["oodm"] > params["threshold"])
    assert array_of(content).any()


def test_whole_method_takes_a_start_without_weights(server, model, bundle, labeled):
    """Pre-training is lost where MONAI Label loads the network's weights over it, which it leaves if it finds none."""
    config = read(model / "configs" / "train.json")
    if "pretrain_epochs" not in config or "healthy" not in config:
        pytest.skip("this bundle pre-trains no denoiser")
    changed = config | {"pretrain_epochs": 1, "healthy": "all"}
    (model / "configs" / "train.json").write_text(json.dumps(changed), encoding="utf-8")
    before = (model / "models" / "denoiser.pt").read_bytes()
    log = server.train(bundle, **REQUEST, model_filename="none")
    assert "stage localize: done" in log
    assert "starts from the weights" not in log
    assert (model / "models" / "denoiser.pt").read_bytes() != before
    trained, kept = (
        torch.load(model / path, weights_only=True) for path in ("output/pretrain/denoiser.pt", "models/denoiser.pt")
    )
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
    assert server.judge(bundle, labeled[0])["reason"] is None
