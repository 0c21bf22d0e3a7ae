import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import ConfigError
from common.networks import DenseSkipUNet

TINY = {"in_channels": 1, "out_channels": 2, "features": (3, 4, 5, 6)}


def tiny(spatial_dims=2, **settings):
    torch.manual_seed(0)
    return DenseSkipUNet(spatial_dims, **(TINY | settings))


def image(spatial_dims, size=16, channels=1):
    shape = (2, channels, *[size, *[8] * (spatial_dims - 1)])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (2, 3)])
def test_logits_have_the_size_of_the_image(spatial_dims, in_channels, out_channels):
    network = tiny(spatial_dims, in_channels=in_channels, out_channels=out_channels, norm="batch").eval()
    logits = network(image(spatial_dims, channels=in_channels))
    assert logits.shape == (2, out_channels, 16, *[8] * (spatial_dims - 1))
    assert float(logits.detach().std()) > 0


def test_default_levels_are_those_of_the_shipped_weights():
    network = DenseSkipUNet(3, 1, 1)
    assert [encoder.conv[-1].conv.out_channels for encoder in network.encoders] == [14, 28, 56, 112]
    assert network.divisor == 8


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_parameter_gets_a_gradient(spatial_dims):
    network = tiny(spatial_dims, norm=None)
    network(image(spatial_dims)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_torchscript_equals_eager(spatial_dims, training):
    network = tiny(spatial_dims).train(training)
    scripted = torch.jit.script(network)
    assert_close(scripted(image(spatial_dims)), network(image(spatial_dims)))


@pytest.mark.parametrize("size", [4, 12, 17])
def test_size_that_does_not_fit_is_named(size):
    with pytest.raises(ValueError, match=rf"\[{size}, 8\]\) must be multiples of 8"):
        tiny()(image(2, size))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"spatial_dims": 1}, "spatial_dims is 1; accepted are 2 and 3"),
        ({"features": (4,)}, r"features is \[4\]; at least two levels"),
        ({"features": (4, 0)}, r"features is \[4, 0\]"),
    ],
)
def test_setting_that_is_not_accepted_is_named(settings, text):
    with pytest.raises(ConfigError, match=text):
        DenseSkipUNet(**({"spatial_dims": 2} | TINY | settings))


def maps_of(network, picture):
    """Outputs of all encoders and decoders."""
    maps = {}
    for kind in ("encoders", "decoders"):
        for level, module in enumerate(getattr(network, kind)):
            module.register_forward_hook(lambda m, i, output, key=(kind, level): maps.update({key: output.detach()}))
    network(picture)
    return maps


def test_levels_halve_the_resolution():
    maps = maps_of(tiny(), image(2))
    sizes = {key: tuple(output.shape[1:]) for key, output in maps.items()}
    assert sizes == {
        ("encoders", 0): (3, 16, 8),
        ("encoders", 1): (4, 8, 4),
        ("encoders", 2): (5, 4, 2),
        ("encoders", 3): (6, 2, 1),
        ("decoders", 2): (5, 4, 2),
        ("decoders", 1): (4, 8, 4),
        ("decoders", 0): (3, 16, 8),
    }


@pytest.mark.parametrize(("fine", "coarse"), [(j, i) for i in range(1, 4) for j in range(i)])
def test_every_finer_map_feeds_every_coarser_encoder_by_a_strided_link(fine, coarse):
    network = tiny(norm=None)
    links = network.strided[coarse - 1]
    assert len(links) == coarse
    assert links[fine].stride == (2 ** (coarse - fine),) * 2
    before = maps_of(tiny(norm=None), image(2))
    with torch.no_grad():
        links[fine].weight.add_(1.0)
    after = maps_of(network, image(2))
    changed = [level for level in range(4) if not torch.equal(before["encoders", level], after["encoders", level])]
    assert changed == list(range(coarse, 4))


def test_last_features_are_what_the_head_sees():
    network = tiny()
    maps = maps_of(network, image(2))
    assert_close(network.head(maps["decoders", 0]), network(image(2)))


def test_encoder_maps_skip_to_the_decoder():
    network = tiny(norm=None)
    with torch.no_grad():
        for upsampler in network.upsamplers:
            nn.init.zeros_(upsampler.weight)
            nn.init.zeros_(upsampler.bias)
    first, second = image(2), image(2) + 1
    assert not torch.allclose(network(first), network(second))


def test_dropout_acts_in_training_only():
    network = tiny(dropout=0.5)
    assert not torch.equal(network(image(2)), network(image(2)))
    network.eval()
    assert_close(network(image(2)), network(image(2)), rtol=0, atol=0)
