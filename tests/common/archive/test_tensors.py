"""Weights, read without torch: digests are those of the tensors, anything but tensors is refused."""

import io
import pickle
import re
import warnings
import zipfile

import numpy as np
import pytest
import torch

from common.archive import tensors
from common.archive.tensors import state_digest
from common.errors import ArchiveError
from common.spectral import SignatureBank, weights_digest
from tests.common.archive.hostile import Evil, weights_of
from tests.common.banks import BOUND

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def saved(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def digest_of(state):
    return state_digest(saved(state), "weights")


@pytest.mark.parametrize("kind", TYPES)
def test_digest_of_a_file_is_that_of_its_tensors(kind):
    state = {"module.b": torch.arange(12).reshape(3, 4).to(kind), "a": torch.tensor(1).to(kind), "c": torch.empty(0, 2)}
    assert digest_of(state) == weights_digest(state)


def test_digest_sees_through_views():
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {"part": base[1, 1:], "whole": base, "single": base[:1].permute(1, 0, 2)}
    assert digest_of(state) == weights_digest(state)
    assert digest_of({"a": base}) != digest_of({"a": base + 1})


def test_other_order_of_elements_is_named():
    with pytest.raises(ArchiveError, match=r"not in row-major order: save what contiguous\(\) returns"):
        digest_of({"image": torch.arange(48.0).reshape(3, 16).T})


def test_tensors_that_share_their_bytes_a_million_times_are_refused(monkeypatch):
    """A small file could otherwise be hashed for hours."""
    base = torch.zeros(100)
    state = {str(number): base for number in range(100)}
    assert digest_of(state) == weights_digest(state)
    monkeypatch.setattr(tensors, "MAX_BYTES", 39_999)
    with pytest.raises(ArchiveError, match="its tensors are of more than 39999 bytes"):
        digest_of(state)


def test_tensor_beyond_its_bytes_is_refused():
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(3)}))) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    # The shape: BININT1 3, TUPLE1.
    changed = files[pickled].replace(b"K\x03\x85", b"K\x04\x85")
    with pytest.raises(ArchiveError, match="a tensor reaches beyond its bytes"):
        state_digest(zipped(changed, **{"data/0": bytes(12)}), "weights")


def test_digest_of_a_network_is_that_of_its_state():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    assert digest_of(network.state_dict()) == weights_digest(network.state_dict())


def arrays(**content):
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


def zipped(data, **records):
    """A file of weights around the bytes of a pickle, of one storage unless told."""
    return weights_of(**{"data.pkl": data} | (records or {"data/0": bytes(8)}))


def huge_memo():
    """A pickle of few bytes for which the C unpickler asks for gigabytes."""
    return zipped(b"\x80\x02}r\xff\xff\xff\x7f.", byteorder=b"little")


def tensor_pickle(shape, stride=b"(t"):
    """A pickle of one tensor, ``w``, whose shape and stride are pickled as given."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x02tQ"
    return (
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape + stride + b"\x89NtRs."
    )


DEEP = b")" + b"\x85" * 300_000
MODEL = "models/model.pt"

TWO = tensor_pickle(b"K\x02\x85", b"K\x01\x85")
HOSTILE = {
    "deep key of a dictionary": (zipped(b"\x80\x02}" + DEEP + b"K\x01s."), "it holds more than names and tensors"),
    "deep name of a storage": (zipped(b"\x80\x02" + DEEP + b"Q."), "it names an unknown storage"),
    "deep argument": (zipped(b"\x80\x02ccollections\nOrderedDict\n" + DEEP + b"R."), "it calls what it may not"),
    "million dimensions": (zipped(tensor_pickle(b"(" + b"K\x01" * 100_000 + b"t")), "no storage or no shape"),
    "negative size": (zipped(tensor_pickle(b"J\xff\xff\xff\xff\x85", b"K\x01\x85")), "whole numbers from 0"),
    "size that is a truth": (zipped(tensor_pickle(b"\x88\x85", b"K\x01\x85")), "whole numbers from 0"),
    "zip file behind another": (zipped(b"\x80\x02}.") + saved({"w": torch.ones(2)}), "expected is b'PK"),
    "zip file behind a pickle": (pickle.dumps(1) + saved({"w": torch.ones(2)}), "expected is"),
    "bytes behind the pickle": (zipped(TWO + b"\0"), "bytes follow its pickle"),
    "pickle behind the pickle": (zipped(TWO + pickle.dumps(1)), "bytes follow its pickle"),
    "other protocol": (zipped(TWO.replace(b"\x80\2", b"\x80\3")), "it is not of protocol 2"),
    "device that no torch has": (zipped(TWO.replace(b"cpu", b"bpu")), "it names an unknown storage"),
    "pickle cut within a length": (zipped(TWO[:7]), "do not load it"),
    "hooks": (zipped(TWO.replace(b"\x89Nt", b"\x89K\x01t")), "a tensor has hooks"),
    "more arguments": (zipped(TWO.replace(b"\x89Nt", b"\x89NNt")), "do not load it"),
    "second pickle": (zipped(TWO, **{"data/0": bytes(8), "extra.pkl": TWO}), "it holds 'extra.pkl'"),
    "pickle deeper down": (zipped(TWO, **{"data/0": bytes(8), "more/data.pkl": TWO}), "it holds 'more/data.pkl'"),
    "program of TorchScript": (zipped(TWO, **{"data/0": bytes(8), "code/a.py": b""}), "it holds 'code/a.py'"),
    "constants of TorchScript": (zipped(TWO, **{"data/0": bytes(8), "constants.pkl": b""}), "holds 'constants.pkl'"),
    "debugging of TorchScript": (zipped(TWO, **{"data/0": bytes(8), "code/a.py.debug_pkl": b""}), "debug_pkl'"),
    "tensor of nobody": (zipped(TWO, **{"data/0": bytes(8), "data/1": bytes(8)}), "belong to no tensor"),
    "tensor without its bytes": (zipped(TWO, byteorder=b"little"), "belong to no tensor"),
    "bytes behind a tensor": (zipped(TWO, **{"data/0": bytes(12)}), "more or fewer than it says"),
    "bytes that lack": (zipped(TWO, **{"data/0": bytes(4)}), "more or fewer than it says"),
    "other order of bytes": (zipped(TWO, **{"data/0": bytes(8), "byteorder": b"big"}), "it holds 'byteorder'"),
    "notes that are none": (zipped(TWO, **{"data/0": bytes(8), ".format_version": TWO}), "it holds '.format_version'"),
    "no pickle": (arrays(w=np.zeros(2)), "expected is"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.tried(
    "Archives and weights",
    "`model.pt` with further records, code or pickles, or tensors beyond its bytes",
    "Refused.",
)
def test_file_made_to_break_its_reader_is_refused(kind):
    content, text = HOSTILE[kind]
    with pytest.raises(ArchiveError, match=re.escape(text)) as caught:
        state_digest(content, "model.pt")
    assert "\n" not in str(caught.value)


def test_program_of_torch_script_is_refused():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    with pytest.raises(ArchiveError, match=r"of 'archive/code/__torch__/.*' is 20, expected is 0"):
        state_digest(buffer.getvalue(), "model.pt")


def test_two_folders_in_the_weights_are_refused():
    """Torch reads the first; others may read the second."""
    content = saved({"w": torch.ones(2)})
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        name = whole.namelist()[-1]
    changed = content.replace(name.encode(), name.replace("archive", "another").encode())
    assert changed.count(b"another/") == 2
    with pytest.raises(ArchiveError, match=r"it holds 'another/\.data/serialization_id'"):
        state_digest(changed, "model.pt")


def test_weights_pickled_by_hand_are_read():
    """So that the hostile ones above are refused for what is wrong with them."""
    read = state_digest(zipped(tensor_pickle(b"K\x02\x85", b"K\x01\x85")), "weights")
    assert read == weights_digest({"w": torch.zeros(2)})


PICKLES = {
    "code in the weights": ("models/model.pt", lambda: saved({"w": torch.zeros(2), "x": Evil()}), "__builtin__.eval"),
    "bare pickle as weights": ("models/model.pt", lambda: pickle.dumps(Evil()), "does not end with the end record"),
    "old format of torch": (
        "models/model.pt",
        lambda: saved({"w": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "does not end with the end record",
    ),
    "network in place of its weights": ("models/model.pt", lambda: saved(torch.nn.Linear(1, 1)), "it asks for"),
    "numbers among the weights": ("models/model.pt", lambda: saved({"w": 1.0}), "it holds more than names and tensors"),
    "pickle that fills the memory": ("models/model.pt", huge_memo, "other weights"),
    "dictionary with a state": (
        MODEL,
        lambda: zipped(b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\0\0\0aK\x05sb.", byteorder=b"little"),
        "the signature bank was fitted to other weights",
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.tried("Archives and weights", "Weights that would run code when loaded", "Refused; nothing of them runs.")
def test_pickle_other_than_tensors_is_refused(files, sealed, refuse, kind):
    name, make, text = PICKLES[kind]
    assert text in refuse(sealed(files | {f"organ/{name}": make()}))


def test_bank_of_other_weights_is_refused(files, sealed, refuse, tmp_path):
    changed = {"layer.weight": torch.ones(2, 3), "layer.bias": torch.zeros(2)}
    text = "the signature bank was fitted to other weights than models/model.pt"
    assert text in refuse(sealed(files | {"organ/models/model.pt": saved(changed)}))
    SignatureBank.fit(np.eye(2), **BOUND | {"weights_digest": "0" * 64}).save(tmp_path / "bank.npz")
    bank = (tmp_path / "bank.npz").read_bytes()
    assert text in refuse(sealed(files | {"organ/models/signature_bank.npz": bank}))
