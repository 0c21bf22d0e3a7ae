"""The U-Net with a head: its groups fit its features."""

import pytest
import torch

from common.networks import HeadedUNet


@pytest.mark.parametrize(("features", "groups"), [((16, 32, 64), 8), ((4, 8), 4), ((12, 20, 36), 4), ((6, 9), 1)])
def test_groups_divide_all_features(features, groups):
    network = HeadedUNet(2, 1, 2, features=features, norm="group")
    found = {part.num_groups for part in network.modules() if isinstance(part, torch.nn.GroupNorm)}
    assert found == {groups}
    assert network(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)
