"""The nine networks of Gao and Xu's Table 1, each one key away: forward, one training step, pre-trained weights."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from common.errors import ConfigError, WeightsError
from common.networks.encoders import PAIRS, encoder_network
from common.ood_mining import CombinedDiceLoss
from common.spectral import SpectralInferer

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "med_ood"
INSTALLED = importlib.util.find_spec("segmentation_models_pytorch") is not None
NEEDED = bool(os.environ.get("NEEDS_ENCODERS"))
pytestmark = [
    pytest.mark.encoders,
    # Where the environment was made for these tests, a missing package is a failure.
    pytest.mark.skipif(
        not INSTALLED and not NEEDED, reason="segmentation-models-pytorch is not installed: make test-encoders does"
    ),
    # The package and those that it needs, while they are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
EVERY = pytest.mark.parametrize("pair", PAIRS)


def test_there_are_nine_pairs():
    assert len(set(PAIRS)) == 9
    assert {pair.split("-")[0] for pair in PAIRS} == {"Unet", "UnetPlusPlus", "MAnet"}


@pytest.fixture
def network_of(bundle_importable):
    """The network that ``train.json`` makes with the overlay and one key: ``network_of(pair)``."""

    def make(pair, **overrides):
        with bundle_importable(BUNDLE):
            parser = ConfigParser()
            parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "encoders")])
            parser.update({"network_pair": pair, "device": "cpu"} | overrides)
            torch.manual_seed(0)
            return parser.get_parsed_content("network_def"), parser["feature_layers"], parser["divisor"]

    return make


@EVERY
def test_network_segments_learns_and_has_a_signature(network_of, pair):
    network, layers, divisor = network_of(pair, out_channels=3)
    image = torch.rand(2, 3, 64, 64)
    label = (image.mean(dim=1, keepdim=True) > 0.5).long()
    ood = torch.tensor([False, True])
    loss, optimizer = CombinedDiceLoss(), torch.optim.Adam(network.parameters(), 1e-4)
    before = {name: value.clone() for name, value in network.named_parameters()}
    logits = network(image)
    assert logits.shape == (2, 3, 64, 64)
    value = loss(logits, (label * ~ood.reshape(-1, 1, 1, 1), ood))
    value.backward()
    optimizer.step()
    assert value.isfinite()
    gradients = [parameter.grad for parameter in network.encoder.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(not torch.equal(before[name], parameter) for name, parameter in network.named_parameters())
    with torch.no_grad():
        found = SpectralInferer([64, 64], layers, divisor=divisor)(image[:1, :, :60, :50], network.eval())
    assert found["logits"].shape == (1, 3, 60, 50)
    assert found["signature"].isfinite().all()
    # Channels of the decoder, neighborhoods of three colors, and the output.
    assert found["signature"].shape[1] == 16 + 27 + 1


@EVERY
def test_pretrained_weights_come_from_a_local_file(network_of, pair, tmp_path):
    own = network_of(pair)[0].encoder.state_dict()
    prefix = "model." if all(name.startswith("model.") for name in own) else ""
    # As torchvision and timm write them: without the wrapper's prefix, with a classifier's head.
    state = {name.removeprefix(prefix): value + 0.5 for name, value in own.items()}
    torch.save(state | {"fc.weight": torch.ones(2, 2)}, tmp_path / "encoder.pt")
    loaded = network_of(pair, encoder_weights=str(tmp_path / "encoder.pt"))[0].encoder.state_dict()
    assert loaded.keys() == own.keys()
    for name, value in own.items():
        torch.testing.assert_close(loaded[name], state[name.removeprefix(prefix)].to(value.dtype))


def test_weights_of_another_encoder_are_refused(tmp_path):
    torch.save(encoder_network("Unet-vgg11_bn", 3, 2).encoder.state_dict(), tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match=r"belongs to another encoder: \d+ of \d+ tensors differ"):
        encoder_network("UnetPlusPlus-resnet18", 3, 2, encoder_weights=str(tmp_path / "encoder.pt"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Unet-nonet", 3, 2), "'Unet-nonet' does not exist"),
        (("Nonet-resnet18", 3, 2), "'Nonet-resnet18' does not exist"),
    ],
)
def test_unknown_pairs_are_named_with_the_known_ones(arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        encoder_network(*arguments)
    assert all(pair in str(caught.value) for pair in PAIRS)


def test_wrong_images_are_named(tmp_path):
    with pytest.raises(ConfigError, match="in_channels is 1; pre-trained encoders take 3"):
        encoder_network("Unet-vgg11_bn", 1, 2, encoder_weights=str(tmp_path / "encoder.pt"))
    with pytest.raises(ConfigError, match="takes pictures, but spatial_dims is 3"):
        encoder_network("Unet-vgg11_bn", 3, 2, spatial_dims=3)
