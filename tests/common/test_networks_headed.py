"""The U-Net with a head: its memory format changes nothing but its speed."""

import copy

import pytest
import torch
from torch.testing import assert_close

from common.networks import HeadedUNet
from common.runtime.weights import load_weights

NORMS = ("batch", "group", "instance", None)


def both_formats(network):
    """A network and its copy that leaves images as they are."""
    plain = copy.deepcopy(network)
    plain._channels_last = False
    return network, plain


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dims", [2, 3])
def test_memory_format_changes_neither_output_nor_gradients(dims, norm):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *[16] * dims, dtype=torch.float64)
    first, second = both_formats(HeadedUNet(dims, 3, 2, features=(8, 16), norm=norm).double())
    for network in (first, second):
        network(image).square().mean().backward()
    assert_close(first(image), second(image))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert_close(one.grad, other.grad)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("norm", NORMS)
def test_feature_maps_are_channels_last_where_that_is_faster(norm):
    network = HeadedUNet(2, 3, 2, features=(8, 16), norm=norm)
    faster = network.decode(torch.randn(2, 3, 16, 16)).is_contiguous(memory_format=torch.channels_last)
    assert faster == (norm != "instance")


def test_shipped_weights_give_what_they_gave(repository):
    torch.manual_seed(0)
    first, second = both_formats(HeadedUNet(2, 3, 2, norm="batch"))
    path = repository / "bundles" / "denoising_pretrain" / "models" / "model.pt"
    for network in (first, second):
        load_weights(network.eval(), path)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(first(image), second(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("features", "groups"), [((16, 32, 64), 8), ((4, 8), 4), ((12, 20, 36), 4), ((6, 9), 1)])
def test_groups_divide_all_features(features, groups):
    network = HeadedUNet(2, 1, 2, features=features, norm="group")
    found = {part.num_groups for part in network.modules() if isinstance(part, torch.nn.GroupNorm)}
    assert found == {groups}
    assert network(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)
