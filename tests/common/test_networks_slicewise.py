import copy

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet
from torch.testing import assert_close

from common.double_mix.network import CoTrainedPair
from common.errors import ConfigError
from common.networks import SliceWise
from common.networks.slicewise import fold_slices, unfold_slices
from common.spectral import SpectralInferer, spectral_signature

SETTINGS = {"in_channels": 2, "out_channels": 3, "features": (4, 4, 5, 6, 7, 4), "norm": "batch"}
DYNAMIC = {"in_channels": 2, "out_channels": 3, "filters": [4, 6, 8], "head": "output_block"}
DYNAMIC |= {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}


def both(member=BasicUNet, settings=SETTINGS):
    """The network slice by slice, and the same network in two dimensions."""
    torch.manual_seed(0)
    wrapped = SliceWise(member, **settings).eval()
    torch.manual_seed(0)
    flat = member(spatial_dims=2, **{name: value for name, value in settings.items() if name != "head"}).eval()
    return wrapped, flat


def volume(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_slices_are_folded_in_order_and_back_without_a_copy():
    volumes = volume(2, 3, 4, 5, 6)
    slices = fold_slices(volumes)
    assert slices.shape == (12, 3, 4, 5)
    assert_close(slices[7], volumes[1, :, :, :, 1], rtol=0, atol=0)
    assert_close(unfold_slices(slices, 6), volumes, rtol=0, atol=0)
    assert unfold_slices(slices, 6).data_ptr() == slices.data_ptr()


@pytest.mark.parametrize(("member", "settings"), [(BasicUNet, SETTINGS), (DynUNet, DYNAMIC)], ids=["basic", "dynamic"])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_slice_is_segmented_as_by_the_network_in_two_dimensions(member, settings, depth):
    wrapped, flat = both(member, settings)
    volumes = volume(2, 2, 32, 16, depth)
    with torch.no_grad():
        logits = wrapped(volumes)
        assert logits.shape == (2, 3, 32, 16, depth)
        for place in range(depth):
            assert_close(logits[..., place], flat(volumes[..., place]))


def test_training_statistics_run_over_all_slices():
    wrapped, flat = both()
    volumes = volume(2, 2, 16, 16, 3)
    assert_close(fold_slices(wrapped.train()(volumes)), flat.train()(fold_slices(volumes)))
    assert_close(wrapped.body.conv_0.conv_0.adn.N.running_mean, flat.conv_0.conv_0.adn.N.running_mean)


def test_signature_of_a_volume_is_that_of_the_features_of_its_slices():
    wrapped, flat = both()
    maps = []
    flat.upcat_1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    image = volume(1, 2, 32, 16, 5)
    inferer = SpectralInferer([32, 16, 1], ["features"], divisor=[16, 16, 1], sw_batch_size=2)
    with torch.no_grad():
        result = inferer(image, wrapped)
        expected = torch.stack([flat(image[..., place]) for place in range(5)], dim=-1)
    # Channels, slices, rows, columns: a signature does not depend on the order of voxels.
    assert_close(result["signature"][0], spectral_signature(torch.cat(maps).swapaxes(0, 1)))
    assert_close(result["logits"], expected)


def test_layers_inside_give_the_signature_of_all_slices():
    wrapped, flat = both()
    maps = []
    flat.down_1.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    image = volume(1, 2, 32, 16, 4)
    inferer = SpectralInferer([32, 16, 2], ["body.down_1"], divisor=[16, 16, 1], sw_batch_size=2, overlap=0.0)
    with torch.no_grad():
        result = inferer(image, wrapped)
        flat(fold_slices(image))
    assert_close(result["signature"][0], spectral_signature(torch.cat(maps).swapaxes(0, 1)))


def test_windows_of_any_depth_give_the_same_result():
    wrapped, _ = both()
    image = volume(2, 2, 30, 20, 5)
    results = []
    for depth, windows in ((1, 1), (1, 4), (3, 1), (8, 2)):
        inferer = SpectralInferer([16, 16, depth], ["features"], divisor=[16, 16, 1], sw_batch_size=windows)
        with torch.no_grad():
            results.append(inferer(image, wrapped))
    assert results[0]["logits"].shape == (2, 3, 30, 20, 5)
    for result in results[1:]:
        assert_close(result["logits"], results[0]["logits"], rtol=1e-4, atol=1e-5)
        assert_close(result["signature"], results[0]["signature"])


def test_every_parameter_gets_a_gradient():
    wrapped, _ = both(settings=SETTINGS | {"norm": None})
    wrapped(volume(1, 2, 16, 16, 2)).square().sum().backward()
    assert [name for name, weight in wrapped.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_state_is_that_of_the_network_under_plain_names():
    wrapped, flat = both()
    names = {f"head{name.removeprefix('final_conv')}" if "final_conv" in name else f"body.{name}"
             for name in flat.state_dict()}  # fmt: skip
    assert wrapped.state_dict().keys() == names


def test_copies_have_features_of_their_own():
    pair = CoTrainedPair(lambda **settings: SliceWise(BasicUNet, **settings), **SETTINGS).eval()
    copied, seen = copy.deepcopy(pair), []
    copied.network_a.features.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    image = volume(1, 2, 16, 16, 2)
    assert_close(copied(image), pair(image), rtol=0, atol=0)
    assert seen == [(1, 4, 16, 16, 2)]


def test_low_precision_reaches_the_head():
    wrapped, _ = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wrapped(volume(1, 2, 16, 16, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
def test_torchscript_equals_eager(training):
    wrapped, _ = both()
    scripted = torch.jit.script(wrapped.train(training))
    assert_close(scripted(volume(2, 2, 16, 16, 3)), wrapped(volume(2, 2, 16, 16, 3)))


def test_head_that_the_network_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"head names 'final', which the network does not have; it has: .*final_conv"):
        SliceWise(BasicUNet, head="final", **SETTINGS)


def test_weights_and_features_lie_with_channels_last_also_in_copies():
    wrapped, _ = both()
    for network in (wrapped, copy.deepcopy(wrapped)):
        network.load_state_dict(wrapped.state_dict())
        weights = [weight for weight in network.parameters() if weight.ndim == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        features = network.body(fold_slices(volume(2, 2, 16, 16, 3)))
        assert features.is_contiguous(memory_format=torch.channels_last)
