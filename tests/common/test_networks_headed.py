"""The U-Net with a head: its groups fit its features."""

import pytest
import torch

from common.networks import HeadedUNet
from common.networks.standardized import standardize_kernels


@pytest.mark.parametrize(("features", "groups"), [((16, 32, 64), 8), ((4, 8), 4), ((12, 20, 36), 4), ((6, 9), 1)])
def test_groups_divide_all_features(features, groups):
    network = HeadedUNet(2, 1, 2, features=features, norm="group")
    found = {part.num_groups for part in network.modules() if isinstance(part, torch.nn.GroupNorm)}
    assert found == {groups}
    assert network(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_without_skips_everything_passes_through_the_coarsest_level():
    """What the last level cannot hold is lost: the way down is not seen from the way up."""
    torch.manual_seed(0)
    plain, bare = (HeadedUNet(2, 1, 1, features=(4, 4, 4), norm=None, skips=skips) for skips in (True, False))
    for network in (plain, bare):
        torch.nn.init.zeros_(network.downs[-1].convs.conv_1.conv.weight)
    first, second = torch.rand(2, 1, 1, 16, 16)
    assert torch.equal(bare(first), bare(second))
    assert not torch.equal(plain(first), plain(second))


@pytest.mark.parametrize("dims", [2, 3])
def test_standardized_kernels_do_not_depend_on_scale_and_offset(dims):
    torch.manual_seed(0)
    network = HeadedUNet(dims, 1, 2, features=(4, 8), norm="group", weight_standardization=True)
    assert network.state_dict().keys() == HeadedUNet(dims, 1, 2, features=(4, 8), norm="group").state_dict().keys()
    image = torch.rand(1, 1, *[8] * dims)
    before = network(image)
    with torch.no_grad():
        network.first.conv_0.conv.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(network(image), before, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        network.head.weight.mul_(3)
    assert not torch.allclose(network(image), before, atol=1e-2), "the head is not standardized"


def test_standardized_kernels_have_mean_zero_and_unit_size():
    kernels = standardize_kernels(torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * 4 + 1)
    torch.testing.assert_close(kernels.mean(dim=(1, 2, 3)), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(kernels.square().sum(dim=(1, 2, 3)), torch.ones(5), rtol=0, atol=1e-4)
