"""Weights and banks that do not fit, in every bundle: one line that says what to do, and no segmentation."""

import shutil

import pytest
import torch

from tests.bundles.refusals import kinds


class TestWeightsAndBank:
    @pytest.fixture
    def models(self, trained, tmp_path):
        return shutil.copytree(trained.models, tmp_path / "models")

    @pytest.fixture(autouse=True)
    def needs_bank(self, judges, request):
        if not judges and "bank" in request.node.name:
            pytest.skip("this bundle gives no verdict")

    @pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
    def test_missing_weights(self, bundle, fail_config, models, dataset, tmp_path, name):
        (models / "model.pt").unlink()
        error = fail_config(bundle, name, dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=models)
        assert "no weights at" in str(error)
        assert "train first, or set model_dir" in str(error)

    def test_weights_of_another_network(self, infer_on, models, dataset):
        state = torch.load(models / "model.pt", weights_only=True)
        name = next(iter(state))
        torch.save(
            {key: value for key, value in state.items() if key != name} | {"other": torch.ones(2)}, models / "model.pt"
        )
        error = infer_on(dataset, model_dir=models)
        assert kinds(error) >= {"WeightsError", "RuntimeError"}
        assert "belongs to another network: 2 tensor(s) differ" in str(error)

    def test_truncated_weights(self, infer_on, models, dataset):
        content = (models / "model.pt").read_bytes()
        (models / "model.pt").write_bytes(content[: len(content) // 2])
        assert "copy it again or train anew" in str(infer_on(dataset, model_dir=models))

    def test_weights_that_would_run_code(self, infer_on, models, dataset, tmp_path):
        torch.save(Harmful(tmp_path / "harm"), models / "model.pt")
        text = str(infer_on(dataset, model_dir=models))
        assert "cannot be read as weights (it is damaged, or holds more than tensors" in text
        assert "weights_only" not in text
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
    def test_missing_bank(self, bundle, fail_config, models, dataset, tmp_path, name):
        (models / "signature_bank.npz").unlink()
        error = fail_config(bundle, name, dataset_dir=dataset, output_dir=tmp_path / "out", model_dir=models)
        assert "no signature bank at" in str(error)
        assert "run fit_bank" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    @pytest.mark.tried(
        "Archives and weights",
        "A bank that was fitted with other weights, in every bundle",
        "One line; no verdict is drawn from it.",
    )
    def test_bank_of_other_weights(self, infer_on, models, dataset, tmp_path):
        state = torch.load(models / "model.pt", weights_only=True)
        torch.save({key: value * 1.01 for key, value in state.items()}, models / "model.pt")
        error = infer_on(dataset, model_dir=models)
        assert kinds(error) >= {"BankMismatchError", "BankError", "ValueError"}
        assert "weights_digest is" in str(error)
        assert "refit it with" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    def test_bank_of_another_preprocessing(self, infer_on, models, dataset, configs):
        if "hounsfield_window" not in configs["inference"]:
            pytest.skip("no setting of the preprocessing to change")
        error = infer_on(dataset, model_dir=models, hounsfield_window=[-500, 500])
        assert str(error).startswith("hounsfield_window is [-500, 500], but the weights in ")
        assert str(error).endswith("were trained with [-1000, 1000]; leave it out, or train anew")
        # Weights of an older version tell nothing.
        (models / "model_settings.json").unlink()
        error = infer_on(dataset, model_dir=models, hounsfield_window=[-500, 500])
        assert "preprocessing_digest is" in str(error)

    @pytest.mark.parametrize("name", ["roi_size", "overlap", "divisor"])
    def test_bank_of_another_window(self, infer_on, models, dataset, configs, name, tmp_path):
        other = {
            "roi_size": [16] * configs["inference"]["spatial_dims"],
            "overlap": 0.5,
            "divisor": 2 * configs["inference"]["divisor"],
        }
        error = infer_on(dataset, model_dir=models, **{name: other[name]})
        assert "BankMismatchError" in kinds(error)
        value = tuple(other[name]) if name == "roi_size" else other[name]
        assert f"{name} is {value}, the bank was fitted with" in str(error)
        assert not list((tmp_path / "out").rglob("*_seg*"))

    def test_truncated_bank(self, infer_on, models, dataset):
        content = (models / "signature_bank.npz").read_bytes()
        (models / "signature_bank.npz").write_bytes(content[:300])
        error = infer_on(dataset, model_dir=models)
        assert "BankError" in kinds(error)
        assert "not a readable signature bank" in str(error)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))
