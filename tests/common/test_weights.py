import os
import pickle
import traceback
import warnings

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
    BestWeights(wrapped, tmp_path)(engine)
    assert set(read_checkpoint(tmp_path / "model.pt")) == set(network(0).state_dict())


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"no weights at .*model\.pt; train first, or set model_dir") as caught:
        load_weights(network(), tmp_path / "model.pt")
    assert isinstance(caught.value, FileNotFoundError)


def test_folder_of_a_run_is_answered_with_the_one_of_its_weights(tmp_path):
    save_atomically({"a": torch.zeros(1)}, str(tmp_path / "models" / "model.pt"))
    with pytest.raises(MissingDataError, match=r"the folder that holds model\.pt, such as .*/models$"):
        read_checkpoint(tmp_path / "model.pt")


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


class Harmful:
    def __reduce__(self):
        return (os.getcwd, ())


def torch_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)


HOSTILE = {
    "network": lambda path: torch.save({"a": nn.Linear(1, 1)}, path),
    "function": lambda path: torch.save(Harmful(), path),
    "old format": lambda path: torch.save({"a": Harmful()}, path, _use_new_zipfile_serialization=False),
    "TorchScript": torch_script,
    **{
        f"pickle of protocol {protocol}": lambda path, protocol=protocol: path.write_bytes(
            pickle.dumps(Harmful(), protocol)
        )
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.tried(
    "Archives and weights",
    "Weights that would run code, given to a run",
    "One line, which advises nobody to load them another way.",
)
def test_objects_are_never_unpickled_and_nobody_is_advised_to(path, kind):
    HOSTILE[kind](path)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path} cannot be read as weights (it is damaged, or holds more than tensors and plain values, which might "
        "run code and is never loaded); copy it again or train anew"
    )
    told = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in told.split("WeightsError: ")[1]
    assert "Re-running" not in told, "not in the chain either"


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_with_any_damage_are_read_or_refused(path, zipped):
    torch.save({"w": torch.zeros(30)}, path, _use_new_zipfile_serialization=zipped)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    texts = []
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(whole), size=2)] ^= np.uint8(1) << rng.integers(8, size=2).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            read_checkpoint(path)
        except WeightsError as error:
            texts.append(str(error))
    assert len(texts) > 50
    assert all(text.isprintable() and "weights_only" not in text for text in texts)
    assert all(text.endswith("; copy it again or train anew") for text in texts)


@pytest.mark.tried("Training that goes on", "The same training twice", "`model.pt` has the same SHA-256.")
def test_same_weights_give_the_same_bytes_under_any_name(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("model.pt", "denoiser.pt", "other/checkpoint.pt")]
    for number, file in enumerate(files):
        monkeypatch.setattr(os, "getpid", lambda number=number: 10**number)
        save_atomically({"network": network(0).state_dict(), "progress": {"epoch": 1}}, file)
    first, *others = (file.read_bytes() for file in files)
    assert [content == first for content in others] == [True, True]
    save_atomically({"network": network(1).state_dict(), "progress": {"epoch": 1}}, files[1])
    assert files[1].read_bytes() != first


def test_weights_that_are_read_and_written_again_keep_their_bytes(path):
    save_atomically(read_checkpoint(path), path.with_name("copy.pt"))
    assert path.with_name("copy.pt").read_bytes() == path.read_bytes()


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
    def full_disk(content, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match=r"cannot write .*model\.pt: PytorchStreamWriter failed"):
        save_atomically({}, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_written_in_rows_however_they_lie_in_memory(tmp_path):
    rows = {"conv.weight": torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)}
    last = {name: value.to(memory_format=torch.channels_last) for name, value in rows.items()}
    for name, content in (("rows", rows), ("last", last)):
        save_atomically(content, tmp_path / name)
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "last").read_bytes()
