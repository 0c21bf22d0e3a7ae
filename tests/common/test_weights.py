import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import BundleError, MissingDataError, OutputError, WeightsError
from common.handlers import BestWeights
from common.runtime.weights import WeightsCheckpointLoader, load_weights, read_checkpoint, save_atomically


def network(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


@pytest.fixture
def path(tmp_path):
    save_atomically(network(0).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel])
def test_saved_weights_load_into_a_network_wrapped_or_not(path, wrap):
    target = network(1)
    load_weights(wrap(target), path)
    assert_close(target.state_dict(), network(0).state_dict(), rtol=0, atol=0)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_loader_of_the_engine_loads_the_same(path):
    target = network(1)
    WeightsCheckpointLoader(str(path), target)(engine=None)
    assert_close(target.state_dict(), network(0).state_dict(), rtol=0, atol=0)


def test_wrapped_network_is_saved_without_prefix(tmp_path):
    wrapped = nn.DataParallel(network(0))
    engine = torch.nn.Module()
    engine.state = type("State", (), {"metrics": {"dice": 0.5}, "key_metric_name": "dice"})
    BestWeights(wrapped, str(tmp_path / "model.pt"))(engine)
    assert set(read_checkpoint(tmp_path / "model.pt")) == set(network(0).state_dict())


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"no weights at .*model\.pt; train first, or set model_dir") as caught:
        load_weights(network(), tmp_path / "model.pt")
    assert isinstance(caught.value, FileNotFoundError)


def test_weights_truncated_anywhere_are_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
            load_weights(network(), path)
        assert isinstance(caught.value, BundleError)
        assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
        b"<html>",
        np.random.default_rng(0).bytes(200),
        b"hello world\n",
    ],
)
def test_other_files_are_no_weights(path, content):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_weights(network(), path)


def test_objects_are_never_unpickled(path):
    torch.save({"a": nn.Linear(1, 1)}, path)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_checkpoint(path)


def test_file_that_holds_no_dictionary_is_refused(path):
    torch.save(torch.zeros(2), path)
    with pytest.raises(WeightsError, match="holds Tensor, expected a state dictionary"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("state", "count", "first"),
    [
        (network(width=4).state_dict(), 6, "0.weight"),
        ({f"module.{name}": tensor for name, tensor in network().state_dict().items()}, 14, "module.0.weight"),
        (network()[:1].state_dict(), 5, "1.weight"),
        ({"progress": {"epoch": 3}} | network().state_dict(), 1, "progress"),
        (dict.fromkeys(network().state_dict(), 3), 7, "0.weight"),
    ],
)
def test_weights_of_another_network_change_nothing(path, state, count, first):
    save_atomically(state, path)
    target = network(1)
    with pytest.raises(WeightsError, match=rf"another network: {count} tensor\(s\) differ, the first is '{first}'"):
        load_weights(target, path)
    assert_close(target.state_dict(), network(1).state_dict(), rtol=0, atol=0)


def test_weights_that_cannot_be_written_are_an_output_error(tmp_path, monkeypatch):
    def full_disk(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match=r"cannot write .*model\.pt: PytorchStreamWriter failed"):
        save_atomically({}, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
