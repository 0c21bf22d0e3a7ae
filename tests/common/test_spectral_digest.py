import hashlib

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged, Spacingd
from torch import nn

from common.runtime.distributed import unwrap
from common.spectral import digest as digest_module
from common.spectral import preprocessing_digest, weights_digest
from common.spectral.digest import WeightsDigest


def state(**changes):
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1, 2])} | changes


def test_digest_is_the_sha256_of_name_dtype_shape_and_bytes():
    tensor = torch.tensor([[1.0, 2.0]])
    expected = hashlib.sha256(b"w|torch.float32|(1, 2)|" + tensor.numpy().tobytes()).hexdigest()
    assert weights_digest({"w": tensor}) == expected


def test_order_of_names_does_not_matter():
    assert weights_digest(dict(reversed(state().items()))) == weights_digest(state())


def test_prefix_of_distributed_training_does_not_matter():
    wrapped = {f"module.{name}": tensor for name, tensor in state().items()}
    assert weights_digest(wrapped) == weights_digest(state())


def test_memory_layout_does_not_matter():
    strided = torch.arange(6.0).reshape(2, 3).T.contiguous().T
    assert not strided.is_contiguous()
    assert weights_digest(state(**{"a.weight": strided})) == weights_digest(state())


@pytest.mark.parametrize(
    "changes",
    [
        {"a.weight": torch.arange(6.0).reshape(2, 3).index_fill(1, torch.tensor([1]), 9.0)},
        {"a.weight": torch.arange(6.0).reshape(3, 2)},
        {"a.weight": torch.arange(6.0).reshape(2, 3).double()},
        {"b.bias": torch.tensor([1, 2]).int()},
        {"b.bias": torch.tensor([2, 1])},
        {"c": torch.zeros(0)},
        {"c": torch.tensor(True)},
        {"c": torch.tensor(1.0).bfloat16()},
    ],
)
def test_any_other_value_shape_type_or_name_changes_the_digest(changes):
    assert weights_digest(state(**changes)) != weights_digest(state())


def test_cached_digest_follows_an_optimizer_step():
    torch.manual_seed(0)
    network, cached = nn.Linear(3, 2), WeightsDigest()
    before = cached(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert cached(network) == weights_digest(network.state_dict())
    assert cached(network) != before


def test_cached_digest_follows_loading_and_another_network():
    torch.manual_seed(0)
    first, second, cached = nn.Linear(3, 2), nn.Linear(3, 2), WeightsDigest()
    own = cached(first)
    assert cached(second) == weights_digest(second.state_dict()) != own
    first.load_state_dict(second.state_dict())
    assert cached(first) == weights_digest(second.state_dict())


def test_cached_digest_reads_unchanged_weights_once(monkeypatch):
    calls = []
    monkeypatch.setattr(digest_module, "weights_digest", lambda weights: calls.append(1) or "digest")
    network, cached = nn.Linear(3, 2), WeightsDigest()
    assert [cached(network) for _ in range(3)] == ["digest"] * 3
    assert len(calls) == 1


def test_cached_digest_is_of_one_network_even_where_another_lies_at_its_addresses(monkeypatch):
    calls = []
    monkeypatch.setattr(digest_module, "weights_digest", lambda weights: calls.append(1) or "digest")
    network, other, cached = nn.Linear(3, 2), nn.Linear(3, 2), WeightsDigest()
    other.weight, other.bias = network.weight, network.bias
    assert [cached(item) for item in (network, other, other)] == ["digest"] * 3
    assert len(calls) == 2


def test_cached_digest_looks_inside_a_parallel_wrapper():
    network = nn.Linear(3, 2)
    assert unwrap(nn.DataParallel(network)) is network
    assert WeightsDigest()(nn.DataParallel(network)) == weights_digest(network.state_dict())


def preprocessing(pixdim=1.0, a_max=1000.0, axcodes="RAS"):
    scale = ScaleIntensityRanged("image", -1000.0, a_max, 0.0, 1.0)
    return [Orientationd("image", axcodes, labels=None), Compose([Spacingd("image", (pixdim,) * 3), scale])]


def test_preprocessing_digest_depends_on_settings_not_on_objects():
    assert preprocessing_digest(preprocessing()) == preprocessing_digest(preprocessing())


@pytest.mark.parametrize(
    "changed",
    [
        {"pixdim": 2.0},
        {"a_max": 400.0},
        {"axcodes": "LPS"},
    ],
)
def test_any_other_setting_changes_the_preprocessing_digest(changed):
    assert preprocessing_digest(preprocessing(**changed)) != preprocessing_digest(preprocessing())


def test_order_of_transforms_changes_the_preprocessing_digest():
    assert preprocessing_digest(preprocessing()[::-1]) != preprocessing_digest(preprocessing())


def test_use_does_not_change_the_preprocessing_digest():
    transforms = preprocessing()
    before = preprocessing_digest(transforms)
    Compose(transforms)({"image": MetaTensor(torch.rand(1, 4, 4, 4))})
    assert preprocessing_digest(transforms) == before
