import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.testing import assert_close

from common.errors import ConfigError, FeatureError
from common.runtime.progress import image_called
from common.spectral import BankSettings, GramAccumulator, SpectralInferer, spectral_signature, weights_digest
from common.spectral.layout import layout_signature
from common.spectral.pseudo_layers import image_signature, output_signature, uncertainty


class CellwiseNetwork(nn.Module):
    """Features at full resolution and at a stride, each voxel or cell by itself, so that windows cannot matter."""

    def __init__(self, spatial_dims, stride=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.fine = convolution(1, 3, 1)
        self.coarse = convolution(1, 4, stride, stride=stride)
        self.head = nn.Sequential(nn.Tanh(), convolution(3, 2, 1))
        self.blocks = nn.ModuleList([nn.Identity()])
        self.double()

    def forward(self, image, factor=1.0):
        self.coarse(image)
        return self.head(self.fine(image)) * factor


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole_image_signatures(network, images, layers):
    """Without any window: the layers applied to each image."""
    rows = [torch.cat([spectral_signature(getattr(network, name)(x[None])[0]) for name in layers]) for x in images]
    return torch.stack(rows).detach()


@pytest.mark.parametrize("shape", [(13, 10), (5, 21), (11, 9, 14)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_windows_do_not_change_the_signatures_of_a_batch(shape, overlap, sw_batch_size):
    network, images = CellwiseNetwork(len(shape)), image(2, 1, *shape)
    expected = whole_image_signatures(network, images, ["fine"])
    for roi in ((8,) * len(shape), (24,) * len(shape)):
        inferer = SpectralInferer(roi, ["fine"], overlap=overlap, sw_batch_size=sw_batch_size)
        with torch.no_grad():
            result = inferer(images, network)
        assert_close(result["signature"], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_do_not_change_the_signature_of_a_coarser_layer(stride, overlap):
    network, images = CellwiseNetwork(2, stride), image(2, 1, 24, 16)
    result = SpectralInferer((8, 8), ["coarse", "fine"], overlap=overlap)(images, network)
    assert_close(result["signature"], whole_image_signatures(network, images, ["coarse", "fine"]), rtol=0, atol=1e-10)


def test_per_voxel_signature_divides_by_the_voxels_of_the_image():
    network, images = CellwiseNetwork(2), image(1, 1, 13, 10)
    result = SpectralInferer((8, 8), ["fine"], per_voxel=True)(images, network)
    expected = spectral_signature(network.fine(images)[0], per_voxel=True)
    assert_close(result["signature"][0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["unit", "full"])
def test_image_and_segmentation_stand_beside_the_layers_whatever_the_windows(form):
    network, images = CellwiseNetwork(2), image(2, 1, 13, 10)
    layers = ["image", "fine", "output", "layout"]
    settings = {"per_voxel": True, "signature_form": form, "sigmoid": True}
    for roi in ((8, 8), (24, 24)):
        with torch.no_grad():
            result = SpectralInferer(roi, layers, **settings)(images, network)
            logits = network(images)
        rows = [
            torch.cat(
                [
                    image_signature(one, form),
                    GramAccumulator(3).update(network.fine(one[None])[0]).signature(per_voxel=True, form=form),
                    output_signature(mask, sigmoid=True),
                    layout_signature(mask, sigmoid=True),
                ]
            )
            for one, mask in zip(images, logits, strict=True)
        ]
        assert_close(result["signature"], torch.stack(rows), rtol=0, atol=1e-10)
        assert result["layer_sizes"].tolist() == [[9, 3 if form == "unit" else 6, 1, 11]] * 2
        assert result["signature"].shape[1] == result["layer_sizes"][0].sum()


@pytest.mark.parametrize(("shape", "roi", "window"), [((20, 13), (8, 8), (8, 8)), ((5, 12), (16, 8), (8, 8))])
@pytest.mark.parametrize("with_signature", [True, False])
def test_logits_are_those_of_monai_with_the_same_window(shape, roi, window, with_signature):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    images = image(2, 1, *shape).float()
    expected = SlidingWindowInferer(window, 2, overlap=0.25)(images, network)
    result = SpectralInferer(roi, ["1"], sw_batch_size=2, with_signature=with_signature)(images, network)
    assert_close(result["logits"] if with_signature else result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("with_signature", [True, False])
def test_long_segmentations_tell_how_many_windows_are_done(with_signature, monkeypatch, caplog):
    monkeypatch.setattr("common.runtime.progress.LINE_SECONDS", 0.0)
    caplog.set_level("INFO", "common.runtime.progress")
    inferer = SpectralInferer((8, 8, 8), ("0",), divisor=4, overlap=0.5, sw_batch_size=4, with_signature=with_signature)
    for name in (nullcontext(), image_called("case_1")):
        with name:
            inferer(torch.randn(1, 1, 12, 8, 16), nn.Sequential(nn.Conv3d(1, 2, 1)))
    expected = ["an image: 4 of 6 windows", "case_1: 4 of 6 windows"]
    assert [line.split(",")[0] for line in caplog.messages] == expected


def test_result_carries_the_digest_of_the_weights_for_every_image():
    network = CellwiseNetwork(2)
    result = SpectralInferer((8, 8), ["fine"])(image(2, 1, 8, 8), network)
    assert [bytes(row.tolist()).hex() for row in result["weights_digest"]] == [weights_digest(network.state_dict())] * 2
    assert result["weights_digest"].dtype == torch.uint8


def test_wrapped_network_gives_the_same_signature():
    network, images = CellwiseNetwork(2), image(1, 1, 8, 8)
    inferer = SpectralInferer((8, 8), ["fine"])
    assert_close(inferer(images, nn.DataParallel(network))["signature"], inferer(images, network)["signature"])


def test_low_precision_runs_the_network_in_that_type():
    network, images = CellwiseNetwork(2).float(), image(1, 1, 16, 16).float()
    types = []
    network.fine.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    result = SpectralInferer((8, 8), ["fine"], precision="bfloat16")(images, network)
    assert types == [torch.bfloat16] * 9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = spectral_signature(network.fine(images)[0])
    assert_close(result["signature"][0], expected, rtol=0, atol=1e-10)


def test_keyword_arguments_reach_the_network():
    network, images = CellwiseNetwork(2), image(1, 1, 12, 8)
    inferer = SpectralInferer((8, 8), ["fine"])
    assert_close(inferer(images, network, factor=3.0)["logits"], 3 * inferer(images, network)["logits"])


@pytest.mark.parametrize("with_signature", [True, False])
def test_positional_arguments_reach_the_network(with_signature):
    network, images = CellwiseNetwork(2), image(1, 1, 12, 8)
    inferer = SpectralInferer((8, 8), ["fine"], with_signature=with_signature)
    result = inferer(images, network, 3.0)
    assert_close(result["logits"] if with_signature else result, 3 * network(images))


def test_hooks_are_gone_afterwards_even_after_an_error():
    network = CellwiseNetwork(2)
    SpectralInferer((8, 8), ["fine"])(image(1, 1, 8, 8), network)
    with pytest.raises(ConfigError, match="absent"):
        SpectralInferer((8, 8), ["fine", "absent"])(image(1, 1, 8, 8), network)
    assert not any(module._forward_hooks for module in network.modules())


def test_unknown_layer_is_answered_with_the_layers_there_are():
    with pytest.raises(
        ConfigError, match=r"feature_layers names 'decoder'.*it has: fine, coarse, head, head\.0, head\.1"
    ):
        SpectralInferer((8, 8), ["decoder"])(image(1, 1, 8, 8), CellwiseNetwork(2))


def test_layer_that_is_never_called_is_named():
    with pytest.raises(ConfigError, match="blocks"):
        SpectralInferer((8, 8), ["blocks"])(image(1, 1, 8, 8), CellwiseNetwork(2))


def test_layer_without_spatial_axes_is_refused():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (1, 1, 1)), nn.Upsample((8, 8)))
    with pytest.raises(FeatureError, match=r"layer '1' gives shape \(1, 1\)"):
        SpectralInferer((8, 8), ["1"])(image(1, 1, 8, 8), network)


def test_features_without_a_signature_are_an_error():
    network = CellwiseNetwork(2)
    nn.init.zeros_(network.fine.weight)
    nn.init.zeros_(network.fine.bias)
    with pytest.raises(FeatureError, match="zero everywhere"):
        SpectralInferer((8, 8), ["fine"])(image(1, 1, 8, 8), network)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"overlap": 1.0}, "overlap is 1.0; accepted is 0 <= overlap < 1"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"precision": "float8"}, "precision is 'float8'; accepted are float32, bfloat16, float16"),
        ({"feature_layers": []}, "feature_layers is empty"),
        ({"signature_form": "half"}, "signature_form is 'half'; accepted are unit, full"),
        ({"divisor": [8, 8, 1]}, r"divisor is \[8, 8, 1\]; accepted are a whole number from 1, or 2 of them"),
    ],
)
def test_setting_that_is_not_accepted_is_named(settings, text):
    with pytest.raises(ConfigError, match=text):
        SpectralInferer(**({"roi_size": (8, 8), "feature_layers": ["fine"]} | settings))


def test_settings_are_those_of_the_bank():
    inferer = SpectralInferer([8, 16], ["fine"], per_voxel=True, precision="float16", overlap=0.5, divisor=4)
    assert inferer.settings == {
        "layers": ("fine",),
        "per_voxel": True,
        "signature_form": "unit",
        "sigmoid": False,
        "precision": "float16",
        "roi_size": (8, 16),
        "overlap": 0.5,
        "divisor": 4,
    }
    assert inferer.settings.keys() <= {field.name for field in fields(BankSettings)}


def test_uncertainty_is_that_of_the_whole_segmentation():
    network, images = CellwiseNetwork(2), image(2, 1, 24, 16)
    logits = network(images).detach()
    for layers, sigmoid in ((["fine"], True), (["fine", "output"], False)):
        found = SpectralInferer([8, 16], layers, sigmoid=sigmoid)(images, network)["uncertainty"]
        assert_close(found, torch.stack([uncertainty(each, sigmoid=sigmoid) for each in logits]))


def test_inferer_of_a_bank_has_its_settings():
    chosen = {"per_voxel": True, "signature_form": "full", "sigmoid": True, "precision": "bfloat16", "overlap": 0.5}
    inferer = SpectralInferer([8, 16], ["fine", "output"], divisor=[4, 8], **chosen)
    made = SpectralInferer.of(BankSettings(**inferer.settings), sw_batch_size=3)
    assert made.settings == inferer.settings
    assert made.sw_batch_size == 3


def test_window_that_does_not_shrink_is_never_too_small():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2))
    inferer = SpectralInferer([8, 8, 8], ["1"], divisor=8, with_signature=False)
    assert inferer(image(1, 1, 5, 6, 7).float(), network).shape == (1, 2, 5, 6, 7)


@pytest.mark.parametrize(("divisor", "told"), [([8, 8, 8], 8), ([16, 16, 1], (16, 16, 1)), (1, 1)])
def test_divisor_is_one_number_where_all_axes_are_alike(divisor, told):
    assert SpectralInferer([32, 32, 8], ["fine"], divisor=divisor).settings["divisor"] == told


@pytest.mark.parametrize(
    ("shape", "divisor", "refused"),
    [
        ((8, 8, 8), 8, True),
        ((8, 8, 9), 8, False),
        ((8, 8, 30), [8, 8, 1], True),
        ((8, 9, 1), [8, 8, 1], False),
        ((1, 2, 2), 1, False),
    ],
)
def test_image_of_one_cell_at_the_coarsest_scale_is_too_small_to_normalize(shape, divisor, refused):
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2))
    inferer = SpectralInferer([24, 24, 24], ["1"], divisor=divisor, with_signature=False)
    images = image(1, 1, *shape).float()
    if refused:
        with pytest.raises(FeatureError, match="too small for the network: it is no larger than 8 voxels along any"):
            inferer(images, network)
    else:
        assert inferer(images, network).shape == (1, 2, *shape)


def test_threads_that_share_a_network_do_not_mix_signatures():
    network, images = CellwiseNetwork(2), [image(1, 1, 24, 16, seed=1), 5 * image(1, 1, 24, 16, seed=2)]
    inferer = SpectralInferer((8, 8), ["fine"])
    alone = [inferer(x, network)["signature"] for x in images]
    barrier = threading.Barrier(2)

    # Every window of one thread waits for a window of the other: both have their hooks on the network all the time.
    def wait(*_):
        barrier.wait(timeout=10)

    network.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda x: inferer(x, network)["signature"], images))
    assert_close(together, alone, rtol=0, atol=0)
