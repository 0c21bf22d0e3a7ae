"""Images aligned by deciles, from training to inference."""

import json
import shutil

import pytest
from monai.engines import SupervisedEvaluator

pytestmark = pytest.mark.two_bundles

FILE = "intensity_landmarks.json"


@pytest.fixture(scope="session")
def deciles(configs):
    """Settings that align by deciles, which take the border as it is."""
    return {"normalization": "deciles"} | ({"clear_border": False} if "clear_border" in configs["train"] else {})


@pytest.fixture(scope="session")
def aligned(bundle, dataset, deciles, run_config, tmp_path_factory):
    """A short training with landmarks; its results and its weights."""
    folder = tmp_path_factory.mktemp("aligned")
    run_config(
        bundle, "train.json", dataset_dir=dataset, output_dir=folder, model_dir=folder / "models", max_epochs=1,
        distance="nearest", **deciles,
    )  # fmt: skip
    return folder


@pytest.fixture
def settings(aligned, dataset, deciles, tmp_path):
    folders = {"dataset_dir": dataset, "output_dir": tmp_path, "model_dir": aligned / "models"}
    return folders | deciles


def test_interrupted_training_leaves_weights_and_landmarks_as_they_were(
    aligned, bundle, settings, shape, make_dataset, run_config, monkeypatch, tmp_path
):
    models = shutil.copytree(aligned / "models", tmp_path / "models")
    before = {file.name: file.read_bytes() for file in models.iterdir()}
    other = make_dataset(tmp_path / "other", start=40, **shape)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SupervisedEvaluator, "_iteration", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_config(bundle, "train.json", **settings | {"dataset_dir": other, "model_dir": models})
    learned = json.loads((tmp_path / "learned_landmarks.json").read_text(encoding="utf-8"))
    assert learned != json.loads(before[FILE])
    assert before == {file.name: file.read_bytes() for file in models.iterdir()}


def test_landmarks_lie_beside_the_weights(aligned, configs):
    learned = json.loads((aligned / "models" / FILE).read_text(encoding="utf-8"))
    assert [len(row) for row in learned["landmarks"]] == [len(learned["shares"])] * configs["train"]["in_channels"]
    assert all(row == sorted(row) and row[0] == 0 and row[-1] == 1 for row in learned["landmarks"])


@pytest.mark.parametrize("name", ["evaluate.json", "inference.json"])
def test_evaluation_and_inference_prepare_as_training_did(aligned, bundle, settings, run_config, read_table, name):
    run_config(bundle, name, **settings)
    rows = read_table(next(settings["output_dir"].rglob("ood_report.csv" if name.startswith("inf") else "*.csv")))
    assert rows
    if name == "inference.json":
        # Some of the cases were trained on, and look as they did: none lies nearer to them than they do.
        assert min(float(row["oodm"]) for row in rows) < 1e-4


@pytest.mark.parametrize("name", ["evaluate.json", "inference.json"])
def test_other_landmarks_or_none_are_refused(aligned, bundle, settings, fail_config, tmp_path, name):
    other = tmp_path / "other"
    other.mkdir()
    for file in (aligned / "models").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    learned = json.loads((other / FILE).read_text(encoding="utf-8"))
    learned["landmarks"][0][5] += 0.001
    (other / FILE).write_text(json.dumps(learned), encoding="utf-8")
    error = str(fail_config(bundle, name, **settings | {"model_dir": other}))
    assert "preprocessing_digest is " in error
    (other / FILE).unlink()
    error = str(fail_config(bundle, name, **settings | {"model_dir": other}))
    assert error.startswith(f"normalization is 'deciles', but {other / FILE} cannot be read")
