"""A network with a head of its own, and what replacing it leaves as it was."""

import pytest
import torch
from monai.networks.nets import BasicUNet, UNet
from torch.testing import assert_close

from common.denoising import load_body, replace_head
from common.errors import ConfigError, WeightsError
from common.networks import HeadedUNet


@pytest.fixture
def network():
    torch.manual_seed(0)
    return HeadedUNet(2, 3, 3, features=(4, 6, 8, 10))


@pytest.mark.parametrize("channels", [2, 4], ids=["binary", "multi-class"])
def test_new_head_leaves_the_rest_alone(network, channels):
    image = torch.rand(1, 3, 24, 32)
    segmenter = replace_head(network, channels)
    assert segmenter(image).shape == (1, channels, 24, 32)
    assert_close(segmenter.decode(image), network.decode(image), rtol=0, atol=0)
    assert network(image).shape == (1, 3, 24, 32), "the given network keeps its head"


def test_body_goes_from_the_denoiser_to_the_segmenter(network):
    torch.manual_seed(1)
    segmenter = HeadedUNet(2, 3, 2, features=(4, 6, 8, 10))
    head = {name: value.clone() for name, value in segmenter.head.state_dict().items()}
    load_body(segmenter, network.state_dict())
    own, given = segmenter.state_dict(), network.state_dict()
    assert_close(segmenter.head.state_dict(), head, rtol=0, atol=0)
    for name in (name for name in own if not name.startswith("head.")):
        assert torch.equal(own[name], given[name]), name


def test_residual_denoiser_adds_its_output_to_its_input(network):
    image = torch.rand(1, 3, 16, 16)
    plain, residual = (replace_head(network, 3, residual=value) for value in (False, True))
    residual.load_state_dict(plain.state_dict())
    assert_close(residual(image), image + plain(image))
    load_body(replace_head(network, 2), residual.state_dict())


@pytest.mark.parametrize("residual", [False, True])
def test_guided_network_sees_what_its_denoiser_would_change(residual):
    torch.manual_seed(1)
    guided = HeadedUNet(2, 3, 2, features=(4, 6, 8, 10), norm="group", guided=True, residual=residual).eval()
    denoiser = replace_head(guided, 3, residual=residual)
    load_body(guided, denoiser.state_dict())
    seen = []
    guided.first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 16, 16)
    assert guided(image).shape == (1, 2, 16, 16)
    assert_close(seen[0], torch.cat([image, 4 * (denoiser(image) - image)], dim=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match="belong to another network"):
        load_body(guided, HeadedUNet(2, 3, 3, features=(4, 6, 8, 12), norm="group").state_dict())


def test_denoiser_starts_alike_whether_it_will_guide_or_not():
    """Runs that differ in that alone share one."""
    starts = []
    for guided in (False, True):
        torch.manual_seed(3)
        starts.append(replace_head(HeadedUNet(2, 3, 2, features=(4, 6), guided=guided), 3).state_dict())
    assert_close(starts[0], starts[1], rtol=0, atol=0)
    torch.manual_seed(4)
    other = replace_head(HeadedUNet(2, 3, 2, features=(4, 6)), 3).state_dict()
    assert not torch.equal(other["head.weight"], starts[0]["head.weight"])


def test_training_hides_images_but_not_what_the_guide_says():
    torch.manual_seed(0)
    guided = HeadedUNet(2, 1, 2, features=(4, 8), guided=True, image_dropout=0.25)
    seen = []
    guided.first.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    image = torch.rand(400, 1, 4, 4) + 0.1
    for training in (True, False):
        guided.train(training)(image)
    (trained, change), (tested, same) = ((each[:, :1], each[:, 1:]) for each in seen)
    hidden = (trained == 0).flatten(1).all(dim=1)
    assert 0.15 < hidden.float().mean() < 0.35
    assert_close(trained[~hidden], image[~hidden], rtol=0, atol=0)
    assert_close(tested, image, rtol=0, atol=0)
    assert_close(change, same, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="image_dropout is 1; accepted are shares from 0, below 1"):
        HeadedUNet(2, 1, 2, features=(4, 8), image_dropout=1)


def test_guide_learns_nothing_and_has_no_share_in_the_mode():
    guided = HeadedUNet(2, 3, 2, features=(4, 8), norm="batch", guided=True).train()
    before = {name: value.clone() for name, value in guided.guide.state_dict().items()}
    guided(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(part.grad is None for part in guided.guide.parameters())
    assert all(part.grad is not None for name, part in guided.named_parameters() if not name.startswith("guide."))
    assert_close(dict(guided.guide.state_dict()), before, rtol=0, atol=0)
    assert all(part.requires_grad for part in replace_head(guided, 3).parameters()), "the denoiser itself learns"


def test_every_weight_is_used(network):
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_any_network_with_a_last_convolution_will_do():
    network = BasicUNet(3, 1, 1, features=(4, 4, 4, 4, 4, 4))
    replaced = replace_head(network, 5, head="final_conv")
    assert replaced(torch.rand(1, 1, 32, 32, 32)).shape[1] == 5
    load_body(replaced, network.state_dict(), head="final_conv")


def test_body_of_another_network_is_refused(network):
    other = HeadedUNet(2, 3, 2, features=(4, 6, 8, 12))
    with pytest.raises(WeightsError, match=r"belong to another network: .* beside the head differ.*same network_def"):
        load_body(other, network.state_dict())
    with pytest.raises(WeightsError, match="belong to another network"):
        load_body(other, UNet(2, 3, 2, (4, 8), (2,)).state_dict())


@pytest.mark.parametrize("head", ["nowhere", "ups", "nowhere.deep"])
def test_head_that_is_none_is_named(network, head):
    with pytest.raises(ConfigError, match=f"head is '{head}', which is no convolution"):
        replace_head(network, 2, head=head)


@pytest.mark.parametrize(("settings", "words"), [((4, 1, 1), "spatial_dims is 4"), ((2, 1, 1), "at least two levels")])
def test_impossible_networks_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        HeadedUNet(*settings, features=(4,))


@pytest.mark.parametrize("norm", ["instance", "batch", None])
@pytest.mark.parametrize("dims", [2, 3])
def test_network_has_three_levels_down_and_up(dims, norm):
    network = HeadedUNet(dims, 1, 2, features=(2, 3, 4, 5), norm=norm).eval()
    assert len(network.downs) == len(network.ups) == 3
    features = {}
    network.ups[2].register_forward_hook(lambda _module, _inputs, output: features.update(last=output))
    image = torch.rand(1, 1, *[16] * dims)
    assert_close(network.head(network.decode(image)), network(image))
    assert features["last"].shape == (1, 2, *[16] * dims)
