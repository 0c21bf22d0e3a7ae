"""A network that is run once tells its first and last feature map; one that cannot be used is refused."""

import pytest
import torch
from monai.networks import nets
from torch import nn

from common.errors import ConfigError
from common.networks import DenseSkipUNet, SliceWise
from common.networks.probing import FeatureMap, find_ends, input_axes, probe_network

SMALL = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
DYNUNET = {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]}
UNET = {"channels": (4, 8, 16), "strides": (2, 2)}


@pytest.mark.parametrize(
    ("network", "ends"),
    [
        (lambda: nets.UNet(**SMALL, **UNET, num_res_units=2), ("model.0", "model.1")),
        # As many classes as channels at the end: the last map that is not like the output.
        (lambda: nets.UNet(**SMALL | {"out_channels": 14}, **UNET), ("model.0", "model.1")),
        (lambda: nets.BasicUNet(**SMALL, features=(4, 4, 4, 4, 4, 4)), ("conv_0", "upcat_1")),
        # A layer that runs more than once gives no one map.
        (lambda: nets.SegResNet(**SMALL, init_filters=8), ("convInit", "act_mod")),
        (lambda: nets.DynUNet(**SMALL, **DYNUNET), ("input_block", "upsamples.1")),
        (lambda: DenseSkipUNet(**SMALL | {"out_channels": 1}, features=[4, 8]), ("encoders.0", "decoders.0")),
        (lambda: SliceWise(nets.BasicUNet, in_channels=1, out_channels=3, features=(4, 4, 4, 4, 4, 4)),
         ("body.conv_0", "features")),
        (lambda: nn.Sequential(nn.Conv3d(1, 2, 1)), ()),
    ],
)  # fmt: skip
def test_first_and_last_feature_map_are_found(network, ends):
    made = network()
    assert probe_network(made, 1, (32, 32, 32)).ends == ends
    assert not made.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


def test_ends_are_the_outermost_blocks_that_do_not_hold_each_other():
    def layer(name, begin, end, size=8):
        return FeatureMap(name, begin, end, 4, (size, size))

    maps = [layer("a.0", 1, 2), layer("a", 0, 3), layer("b", 4, 5, size=4), layer("c.0", 7, 8), layer("c", 6, 8)]
    assert find_ends(maps) == ("a", "c")
    assert find_ends([*maps, layer("all", 0, 9)]) == ("a", "c")
    assert find_ends([layer("a", 0, 1)]) == ("a",)
    assert find_ends([]) == ()


@pytest.mark.parametrize(
    ("network", "axes"),
    [
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3)), (3, 2)),
        (nn.Conv3d(2, 5, 1), (2, 3)),
        (nn.Linear(2, 3), None),
    ],
)
def test_first_convolution_tells_channels_and_axes(network, axes):
    assert input_axes(network.state_dict()) == axes


class Pair(nn.Module):
    def forward(self, image):
        return image, image


class Coarse(nn.Module):
    def forward(self, image):
        return image[..., ::2]


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Pair(), r"it returns tuple; needed is one tensor of logits, \(1, classes, 16, 16, 16\)"),
        (Coarse(), r"it returns a tensor of shape \(1, 1, 16, 16, 8\)"),
        (
            nn.Conv3d(2, 2, 1),
            r"image of 1 channel\(s\) and a window of \[16, 16, 16\]: .* set in_channels and roi_size",
        ),
        (nn.Bilinear(1, 1, 1), "missing 1 required positional argument: 'input2'; it must take one image"),
    ],
)
def test_network_that_cannot_be_used_is_refused(network, text):
    with pytest.raises(ConfigError, match=text) as caught:
        probe_network(network, 1, (16, 16, 16))
    assert "\n" not in str(caught.value)


def test_torchscript_has_no_layers_to_watch():
    assert probe_network(torch.jit.script(nn.Conv3d(1, 2, 1)), 1, (8, 8, 8)).ends == ()
