"""Builds segmentation networks with well-known encoders, through the optional package segmentation-models-pytorch."""

from __future__ import annotations

from monai.utils import optional_import
from torch import nn

from ..errors import ConfigError, WeightsError
from ..runtime.weights import read_checkpoint

PAIRS = (
    "Unet-vgg11_bn",
    "Unet-vgg16_bn",
    "Unet-vgg19_bn",
    "UnetPlusPlus-resnet18",
    "UnetPlusPlus-tu-resnet50d",
    "UnetPlusPlus-densenet169",
    "MAnet-mobileone_s0",
    "MAnet-mobilenet_v2",
    "MAnet-tu-tinynet_d",
)
"""The pairs of architecture and encoder of Gao and Xu's Table 1; the package has many more."""

INSTALL = "python -m pip install -r requirements-encoders.txt"


def encoder_network(
    network_pair: str,
    in_channels: int,
    out_channels: int,
    *,
    encoder_weights: str | None = None,
    spatial_dims: int = 2,
    norm: str = "batch",
) -> nn.Module:
    """Returns a network of segmentation-models-pytorch, which gives logits; its last feature map is ``decoder``'s.

    Args:
        network_pair: Architecture and encoder, joined by the first hyphen, such as one of ``PAIRS``.
        in_channels: Number of channels of the image; with ``encoder_weights``, accepted is 3.
        out_channels: Number of channels of the logits, background included.
        encoder_weights: Path of pre-trained weights of the encoder: a state dictionary as torchvision or timm writes
            it. Nothing is ever downloaded; without a file, the default, the encoder starts from random weights.
        spatial_dims: Number of spatial axes; accepted is 2, the default. The package does not have networks for
            volumes.
        norm: Normalization; accepted is ``batch``, the default, since the encoders are made with it.

    Raises:
        ConfigError: When the package is not installed or has no such architecture or encoder, or ``norm`` is not
            accepted. Also when the images are volumes, or weights are given for images of other than three channels.
        MissingDataError: When there is no such file.
        WeightsError: When the file holds weights of another encoder.
    """
    if norm != "batch":
        raise ConfigError(
            f"network_pair {network_pair!r} has batch normalization, but norm is {norm!r}; accepted is 'batch'"
        )
    package, installed = optional_import("segmentation_models_pytorch")
    if not installed:
        raise ConfigError(
            f"network_pair {network_pair!r} needs segmentation-models-pytorch; install it with '{INSTALL}'"
        )
    if spatial_dims != 2:
        raise ConfigError(
            f"network_pair {network_pair!r} takes pictures, but spatial_dims is {spatial_dims}; accepted is 2"
        )
    if encoder_weights and in_channels != 3:
        raise ConfigError(f"encoder_weights is given, but in_channels is {in_channels}; pre-trained encoders take 3")
    architecture, _, encoder = network_pair.partition("-")
    try:
        network: nn.Module = package.create_model(
            architecture, encoder, encoder_weights=None, in_channels=in_channels, classes=out_channels
        )
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"network_pair {network_pair!r} does not exist ({reason}); accepted are {', '.join(PAIRS)}"
        ) from error
    if encoder_weights:
        _load_encoder(network.encoder, encoder_weights)  # type: ignore[arg-type]
    return network


def _load_encoder(encoder: nn.Module, file: str) -> None:
    """Loads pre-trained weights, every tensor of the encoder or none; those of a classifier's head are left out."""
    state, own = read_checkpoint(file), encoder.state_dict()
    if all(name.startswith("model.") for name in own):
        # Encoders of timm are wrapped once more.
        state = {name if name.startswith("model.") else f"model.{name}": tensor for name, tensor in state.items()}
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    mismatched = sorted(name for name in needed if getattr(state.get(name), "shape", None) != own[name].shape)
    if mismatched:
        raise WeightsError(
            f"{file} belongs to another encoder: {len(mismatched)} of {len(needed)} tensors differ, the first is "
            f"{mismatched[0]!r}; give the pre-trained weights of this one"
        )
    nn.Module.load_state_dict(encoder, {name: state.get(name, own[name]) for name in own})
