"""Heads on any encoder, by names of layers."""

import pytest
import torch
from monai.networks.nets import BasicUNet, UNet
from torch import nn
from torch.testing import assert_close

from common.contrast import HeadedNetwork, ProjectionHead, captured, positive_pairs, supervised_contrastive_loss
from common.errors import ConfigError

LAYERS = ["conv_0", "down_1", "down_2", "down_3", "down_4"]
SETTINGS = {"spatial_dims": 2, "in_channels": 3, "roi_size": [32, 32], "num_classes": 4}


def make_network(seed=0):
    torch.manual_seed(seed)
    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=4, features=(4, 4, 8, 8, 12, 4), norm="batch")


def images(count=6, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_heads_give_a_projection_of_length_one_for_every_scale():
    headed = HeadedNetwork(make_network(), LAYERS, **SETTINGS, projection_size=16)
    found = headed(images())
    assert [item.shape for item in found["projections"]] == [(6, 16)] * 5
    for item in found["projections"]:
        assert_close(item.norm(dim=1), torch.ones(6))
    assert found["presence"].shape == (6, 3)
    assert found["logits"].shape == (6, 4, 32, 32)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("unet", {"logits"}),
        ("simclr", {"logits", "projections"}),
        ("contrastive", {"logits", "projections"}),
        ("classification", {"logits", "presence"}),
        ("both", {"logits", "projections", "presence"}),
        ("byol", {"logits", "projections", "predictions"}),
    ],
)
def test_every_method_has_the_heads_it_needs_and_no_other(method, names):
    headed = HeadedNetwork(make_network(), LAYERS, **SETTINGS, method=method)
    assert set(headed(images())) == names
    assert set(headed(images(), segment=False)) == names - {"logits"}
    assert set(headed(images(), with_heads=False)) == {"logits"}


def test_contrastive_loss_reaches_every_scale_of_the_encoder_and_not_the_decoder():
    network = make_network()
    headed = HeadedNetwork(network, LAYERS, **SETTINGS).train()
    positive = positive_pairs(torch.tensor([[0], [0], [0], [1], [1], [1]]))
    for number, layer in enumerate(LAYERS):
        headed.zero_grad(set_to_none=True)
        projection = headed(images())["projections"][number]
        supervised_contrastive_loss(projection, positive).backward()
        reached = [
            name for name in LAYERS if any(bool(p.grad.abs().sum() > 0) for p in grads(network.get_submodule(name)))
        ]
        assert reached == LAYERS[: number + 1], layer
        assert not list(grads(network.upcat_1))


def grads(module):
    return [parameter for parameter in module.parameters() if parameter.grad is not None]


def test_network_without_its_heads_is_the_plain_one():
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    headed = HeadedNetwork(network, LAYERS, **SETTINGS)
    assert set(network.state_dict()) == set(make_network().state_dict())
    assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert not [module for module in network.modules() if module._forward_hooks]
    headed.eval()
    with torch.no_grad():
        assert_close(headed(images())["logits"], network(images()), rtol=0, atol=0)
    assert not [module for module in network.modules() if module._forward_hooks]


class TestForms:
    def test_plain_head_tells_frames_hardly_apart(self):
        cosines = {}
        for form in ("plain", "normalized"):
            torch.manual_seed(0)
            head = ProjectionHead(2, 8, 16, head_form=form).train()
            projections = head(torch.randn(6, 8, 16, 16, generator=torch.Generator().manual_seed(0))).detach()
            others = ~torch.eye(6, dtype=torch.bool)
            cosines[form] = float((projections @ projections.T)[others].mean())
        assert cosines["normalized"] < 0.7 < 0.9 < cosines["plain"]

    def test_normalized_head_step_by_step(self):
        head = ProjectionHead(2, 4, 8).eval()
        features = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        mapped = head.norm(head.conv(features)).clamp_min(0)
        expected = head.project(head.embedding_norm(mapped.mean(dim=(2, 3))))
        assert_close(head(features), expected / expected.norm(dim=1, keepdim=True))

    def test_patches_are_projected_one_by_one(self):
        head = ProjectionHead(2, 4, 8, patch_grid=2).eval()
        features = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
        pooled = [[features[:, :, i : i + 3, j : j + 4].mean(dim=(2, 3)) for j in (0, 4)] for i in (0, 3)]
        mapped = head.norm(head.conv(torch.stack([torch.stack(row, dim=2) for row in pooled], dim=2))).clamp_min(0)
        found = head(features[:1], features[1:])
        assert found.shape == (3, 8, 2, 2)
        corner = head.project(head.embedding_norm(mapped[:, :, 1, 0]))
        assert_close(found[:, :, 1, 0], corner / corner.norm(dim=1, keepdim=True))

    def test_one_frame_alone_has_no_statistics_of_its_own(self):
        head = ProjectionHead(2, 4, 8).train()
        found = head(torch.rand(1, 4, 8, 8))
        assert_close(found.norm(dim=1), torch.ones(1))

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"head_form": "big"}, "head_form is 'big'; accepted are normalized and plain"),
            ({"patch_grid": 0}, "patch_grid is 0; accepted are numbers of patches from 1"),
        ],
    )
    def test_settings_that_are_not_accepted(self, settings, text):
        with pytest.raises(ConfigError, match=text):
            ProjectionHead(2, 4, 8, **settings)


def test_first_images_pass_apart():
    network = make_network().train()
    headed = HeadedNetwork(network, LAYERS, **SETTINGS).train()
    found = headed(images(), apart=2)
    assert_close(found["logits"][:2], network(images()[:2]))
    assert_close(found["logits"][2:], network(images()[2:]))
    assert [len(item) for item in found["projections"]] == [6] * 5
    assert len(found["presence"]) == 6


def test_layers_of_another_network_will_do():
    network = UNet(spatial_dims=2, in_channels=3, out_channels=4, channels=(4, 8, 12), strides=(2, 2))
    layers = ["model.0", "model.1.submodule.0", "model.1.submodule.1.submodule"]
    found = HeadedNetwork(network, layers, **SETTINGS)(images())
    assert [item.shape for item in found["projections"]] == [(6, 128)] * 3


def test_volumes_will_do():
    network = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,))
    settings = {"spatial_dims": 3, "in_channels": 1, "roi_size": [8, 8, 8], "num_classes": 2}
    found = HeadedNetwork(network, ["model.0"], **settings)(torch.rand(2, 1, 8, 8, 8))
    assert found["projections"][0].shape == (2, 128)


def test_captured_features_are_what_the_layers_return():
    network = make_network().eval()
    with torch.no_grad(), captured(network, ["conv_0", "down_1"]) as features:
        network(images())
    with torch.no_grad():
        expected = network.conv_0(images())
        assert_close(features["conv_0"], expected, rtol=0, atol=0)
        assert_close(features["down_1"], network.down_1(expected), rtol=0, atol=0)


def test_frozen_encoder_keeps_its_weights_and_statistics():
    network = make_network()
    headed = HeadedNetwork(network, LAYERS, **SETTINGS).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    headed.freeze_encoder()
    optimizer = torch.optim.Adam(headed.parameters(), lr=0.1)
    headed(images(), with_heads=False)["logits"].square().sum().backward()
    optimizer.step()
    after = network.state_dict()
    encoder = [name for name in before if name.split(".")[0] in LAYERS]
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert not torch.equal(before["final_conv.weight"], after["final_conv.weight"])


class Idle(nn.Module):
    """Holds a layer that does not run, and one that gives no feature map."""

    def __init__(self):
        super().__init__()
        self.idle, self.flat, self.conv = nn.Identity(), nn.Flatten(), nn.Conv2d(3, 4, 1)

    def forward(self, image):
        self.flat(image)
        return self.conv(image)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([], "encoder_layers is empty; name the layer that ends each scale"),
        (["down_9"], "encoder_layers names 'down_9', which the network does not have; it has: idle, flat, conv"),
        (
            ["idle"],
            r"encoder_layers names 'idle', which gives nothing; a layer must give \(batch, channels, \*2 axes\)",
        ),
        (["conv", "flat"], r"encoder_layers names 'flat', which gives shape \(1, 3072\)"),
    ],
)
def test_layers_that_will_not_do_are_named(layers, text):
    with pytest.raises(ConfigError, match=text):
        HeadedNetwork(Idle(), layers, **SETTINGS)


def test_encoder_alone_is_shared_by_all_terms():
    network = make_network()
    headed = HeadedNetwork(network, LAYERS, **SETTINGS)
    shared = {id(parameter) for parameter in headed.encoder_parameters()}
    names = {name.split(".")[0] for name, parameter in network.named_parameters() if id(parameter) in shared}
    assert names == set(LAYERS)
    assert len(shared) == sum(1 for name, _ in network.named_parameters() if name.split(".")[0] in LAYERS)
