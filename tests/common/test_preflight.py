import json
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.data import CaseSplit
from common.double_mix.checks import CoTrainingPreflight
from common.engine.inference_checks import InferencePreflight
from common.engine.training_checks import TrainingPreflight
from common.errors import (
    BankError,
    BankMismatchError,
    ConfigError,
    MissingDataError,
    NotEnoughCasesError,
    OutputError,
    WeightsError,
)
from common.runtime.files import check_writable
from common.runtime.weights import save_atomically
from common.spectral import SignatureBank, SpectralInferer, bank_settings, weights_digest
from common.spectral.bank import REFIT_COMMAND
from common.transforms import NormalizeByModalityd


def make_network(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.Conv2d(width, 1, 1))


@pytest.fixture
def ready(tmp_path):
    """What a run that segments finds: weights, the bank that belongs to them, and a network with other weights."""
    trained, inferer = make_network(), SpectralInferer((8, 8), ["0"])
    transforms = [NormalizeByModalityd("image", "MR")]
    save_atomically(trained.state_dict(), tmp_path / "models" / "model.pt")
    settings = bank_settings(inferer, transforms, weights_digest(trained.state_dict()))
    signatures = nn.functional.normalize(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
    bank = SignatureBank.fit(signatures, **settings)
    bank.save(tmp_path / "models" / "bank.npz")
    return SimpleNamespace(
        trained=trained,
        network=make_network(seed=1),
        inferer=inferer,
        transforms=transforms,
        weights=tmp_path / "models" / "model.pt",
        bank=tmp_path / "models" / "bank.npz",
        output=tmp_path / "out",
        fitted=bank,
    )


def preflight_of(ready, **changes):
    parts = SimpleNamespace(**(vars(ready) | changes))
    files = (str(parts.weights), str(parts.bank))
    return InferencePreflight(parts.network, *files, parts.inferer, parts.transforms, str(parts.output), "cpu")


@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel])
def test_network_gets_its_weights_and_the_bank_is_returned(ready, wrap):
    bank = preflight_of(ready, network=wrap(ready.network)).run()
    assert_close(ready.network.state_dict(), ready.trained.state_dict(), rtol=0, atol=0)
    assert (bank.threshold, bank.settings) == (ready.fitted.threshold, ready.fitted.settings)
    assert list(ready.output.iterdir()) == []


def test_weights_alone_can_be_loaded_without_a_bank(ready):
    ready.bank.unlink()
    preflight_of(ready).load()
    assert_close(ready.network.state_dict(), ready.trained.state_dict(), rtol=0, atol=0)


def remove(ready, name):
    getattr(ready, name).unlink()
    return {}


def truncate(ready, name):
    path = getattr(ready, name)
    path.write_bytes(path.read_bytes()[:60])
    return {}


def train_again(ready):
    save_atomically(make_network(seed=2).state_dict(), ready.weights)
    return {}


def block_output(ready):
    ready.output.touch()
    return {}


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (lambda ready: remove(ready, "weights"), MissingDataError, r"no weights at .*model\.pt; train first"),
        (lambda ready: truncate(ready, "weights"), WeightsError, r"model\.pt cannot be read as weights"),
        (lambda ready: {"network": make_network(width=4)}, WeightsError, r"belongs to another network: .*'0\.weight'"),
        (
            lambda ready: remove(ready, "bank"),
            MissingDataError,
            f"no signature bank at .*; fit it with: {re.escape(REFIT_COMMAND)}",
        ),
        (lambda ready: truncate(ready, "bank"), BankError, r"bank\.npz is not a readable signature bank"),
        (train_again, BankMismatchError, f"weights_digest is .*; refit it with: {re.escape(REFIT_COMMAND)}"),
        (lambda ready: {"transforms": []}, BankMismatchError, "preprocessing_digest is "),
        (lambda ready: {"inferer": SpectralInferer((8, 8), ["1"])}, BankMismatchError, r"layers is \('1',\)"),
        (
            lambda ready: {"inferer": SpectralInferer((8, 8), ["0"], per_voxel=True)},
            BankMismatchError,
            "per_voxel is True, the bank was fitted with False",
        ),
        (lambda ready: {"inferer": SpectralInferer((16, 8), ["0"])}, BankMismatchError, r"roi_size is \(16, 8\)"),
        (lambda ready: {"inferer": SpectralInferer((8, 8), ["0"], overlap=0.0)}, BankMismatchError, "overlap is 0.0"),
        (lambda ready: {"inferer": SpectralInferer((8, 8), ["0"], divisor=2)}, BankMismatchError, "divisor is 2"),
        (block_output, OutputError, r"cannot write to .*out: .*; choose another output_dir"),
    ],
)
def test_run_that_cannot_succeed_is_refused_with_the_reason(ready, spoil, error, text):
    with pytest.raises(error, match=text):
        preflight_of(ready, **spoil(ready)).run()


def test_refused_weights_leave_the_network_as_it_was(ready):
    other = make_network(seed=1, width=4)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match="belongs to another network"):
        preflight_of(ready, network=other).load()
    assert_close(other.state_dict(), before, rtol=0, atol=0)


CASES = [{"case": f"c{k}", "task": "organ", "image": f"c{k}.nii.gz"} for k in range(6)]


def training_preflight(folder, train=CASES[:3], val=CASES[3:4], **settings):
    given = {"max_epochs": 4, "val_interval": 2, "distance": "nearest"}
    folders = {"output_dir": str(folder / "out"), "save_dir": str(folder / "models")}
    return TrainingPreflight(train, val, **(given | folders | settings))


def split_of(parts):
    """A split whose parts were asked for already, or not where there are none."""
    split = CaseSplit("nowhere", "out", val_fraction=0.2)
    if parts:
        split.parts = parts
    return split


@pytest.mark.parametrize("split", [None, split_of(None)])
def test_cases_set_from_outside_are_written_and_no_split_is_drawn(tmp_path, split):
    training_preflight(tmp_path, split=split).run()
    written = json.loads((tmp_path / "out" / "split.json").read_text())
    assert written == {"train": {"organ": ["c0", "c1", "c2"]}, "val": {"organ": ["c3"]}}
    assert split is None or not split.drawn


PHANTOMS = [case | {"phantom": True} for case in CASES]


def test_training_run_starts_with_the_split_on_disk(tmp_path):
    parts = {"train": CASES[:3], "val": CASES[3:4], "test": CASES[4:]}
    training_preflight(tmp_path, split=split_of(parts)).run()
    assert json.loads((tmp_path / "out" / "split.json").read_text()) == {
        "train": {"organ": ["c0", "c1", "c2"]},
        "val": {"organ": ["c3"]},
        "test": {"organ": ["c4", "c5"]},
    }
    assert (tmp_path / "models").is_dir()


def test_only_the_main_process_writes_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr("common.engine.training_checks.is_main_process", lambda: False)
    training_preflight(tmp_path).run()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"train": CASES[:1]}, NotEnoughCasesError, r"1 training and 1 validation case\(s\): .* at least 2"),
        ({"train": CASES[:2], "distance": "mahalanobis"}, NotEnoughCasesError, r"2 training .* at least 3"),
        ({"train": ()}, NotEnoughCasesError, "0 training and 1 validation"),
        ({"val": ()}, NotEnoughCasesError, "3 training and 0 validation .*add cases to dataset_dir"),
        ({"false_alarm_rate": 0.4}, NotEnoughCasesError, r"no p-value from 1 calibration patient\(s\) is below 0\.5"),
        ({"false_alarm_rate": 2}, ConfigError, "false_alarm_rate is 2; accepted are numbers above 0 and below 1"),
        ({"val_interval": 5}, ConfigError, "val_interval is 5 with max_epochs 4: no validation would take place"),
        ({"val_interval": 0}, ConfigError, "val_interval is 0 .*accepted is 1 to max_epochs"),
        (
            {"val": PHANTOMS[3:4]},
            ConfigError,
            "training cases are given but validation cases are phantoms",
        ),
        ({"train": PHANTOMS[:3]}, ConfigError, r"give both \(in MONAI Label: val_split above 0\)"),
        ({"train": [*CASES[:3], PHANTOMS[4]]}, ConfigError, "phantoms"),
        (
            {"foreground_labels": {"organ": [1], "Organ": [1], "liver": [2]}},
            ConfigError,
            r"foreground_labels names \['Organ', 'liver'\]; the data sets are \['organ'\]",
        ),
    ],
)
def test_training_run_that_would_fail_at_its_end_is_refused(tmp_path, settings, error, text):
    with pytest.raises(error, match=text):
        training_preflight(tmp_path, **settings).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"train": CASES[:2]},
        {"distance": "mahalanobis"},
        {"val_interval": 4},
        {"max_epochs": 2},
        {"train": PHANTOMS[:3], "val": PHANTOMS[3:4]},
        {"foreground_labels": {}},
        {"foreground_labels": {"organ": [1]}},
    ],
)
def test_training_run_at_the_limits_is_accepted(tmp_path, settings):
    training_preflight(tmp_path, **settings).run()
    assert (tmp_path / "out" / "split.json").is_file()


DRAWN = SimpleNamespace(drawn=True)
"""A split whose parts were not set from outside."""


def cotraining_preflight(folder, labeled=CASES[:2], unlabeled=CASES[2:4], **settings):
    given = {"max_epochs": 4, "val_interval": 2, "distance": "nearest", "teaching": "cross"}
    given |= {"mixing": "Double-Mix", "output_dir": str(folder / "out"), "save_dir": str(folder / "models")}
    return CoTrainingPreflight(labeled, unlabeled, CASES[4:5], **(given | settings))


class TestCoTraining:
    def test_split_tells_labeled_and_unlabeled_cases_apart(self, tmp_path):
        cotraining_preflight(tmp_path).run()
        assert json.loads((tmp_path / "out" / "split.json").read_text()) == {
            "train": {"organ": ["c0", "c1"]}, "val": {"organ": ["c4"]}, "unlabeled": {"organ": ["c2", "c3"]},
        }  # fmt: skip

    def test_unlabeled_cases_that_are_not_used_are_named_too(self, tmp_path):
        cotraining_preflight(tmp_path, teaching="none", mixing="none").run()
        written = json.loads((tmp_path / "out" / "split.json").read_text())
        assert written["unlabeled"] == {"organ": ["c2", "c3"]}

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            (
                {"unlabeled": [], "split": DRAWN},
                r"no unlabeled case is left beside 2 labeled one\(s\); lower labeled_fraction, give",
            ),
            ({"unlabeled": [], "split": DRAWN, "mixing": "none"}, "or lay configs/supervised.json over train.json"),
            ({"labeled": CASES[:1], "unlabeled": []}, r"1 training and 1 validation case\(s\)"),
        ],
    )
    def test_too_few_cases_are_refused_before_anything_is_written(self, tmp_path, settings, text):
        with pytest.raises(NotEnoughCasesError, match=text):
            cotraining_preflight(tmp_path, **settings).run()
        assert list(tmp_path.iterdir()) == []

    def test_lists_set_from_outside_need_no_unlabeled_case(self, tmp_path, caplog):
        cotraining_preflight(tmp_path, unlabeled=[]).run()
        assert "no unlabeled case is left beside 2 labeled one(s); these are also learned from" in caplog.text

    def test_learning_from_labels_alone_needs_no_unlabeled_case(self, tmp_path):
        cotraining_preflight(tmp_path, unlabeled=[], teaching="none", mixing="none").run()
        assert (tmp_path / "out" / "split.json").is_file()


@pytest.mark.parametrize("name", ["output_dir", "save_dir"])
def test_folder_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file/sub: .*choose another output_dir or model_dir"):
        training_preflight(tmp_path, **{name: str(tmp_path / "file" / "sub")}).run()


def test_check_of_a_folder_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
