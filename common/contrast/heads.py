"""Adds heads to the encoder of a segmentation network; training needs them, inference leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..errors import ConfigError
from ..networks.layers import find_layer
from .methods import find_method


@contextmanager
def captured(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Gives a dictionary that holds, after the network has run, what the layers of these names returned.

    The hooks are removed when the block ends, so that a copy or an export of the network knows nothing of them.

    Args:
        network: Network whose layers are watched; it is not changed.
        layers: Names of its layers, as ``named_modules`` gives them.

    Raises:
        ConfigError: When the network has no layer of a name.
    """
    found: dict[str, Tensor] = {}
    handles = []
    try:
        for layer in layers:
            module = find_layer(network, layer, setting="encoder_layers")
            handles.append(module.register_forward_hook(_keep(found, layer)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: dict[str, Tensor], layer: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[layer] = output

    return hook


class ProjectionHead(nn.Module):
    """Maps the features of one scale to a projection of length 1: convolution, batch norm, global pooling, projection.

    Zhang et al. 2024, multi-scale projection head. The convolution has a stride of 2, so that the head of the finest
    scale costs little beside the network; the projection is SimCLR's, of two layers.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        channels: Number of channels of the features.
        size: Length of the projection.
    """

    def __init__(self, spatial_dims: int, channels: int, size: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](channels, channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = Norm[Norm.BATCH, spatial_dims](channels)
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, size))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(B, n, H, W[, D])`` to projections ``(B, size)``."""
        pooled = self.norm(self.conv(features)).flatten(2).mean(dim=2)
        return normalize(self.project(pooled), dim=1)


class HeadedNetwork(nn.Module):
    """A segmentation network with a projection head on every scale of its encoder and a classifier on the deepest.

    The network itself is not changed: it is saved, exported and used without the heads.

    Args:
        network: Network that returns logits ``(B, C, H, W[, D])``.
        encoder_layers: Names of the layers that end the scales of its encoder, the deepest last; at least one.
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of the images.
        roi_size: Size of the images along each axis, in voxels. One such image is run to see how many channels the
            layers have.
        num_classes: Number of classes, C, background included.
        method: Name of the method, one of ``METHODS``, which tells the heads that are needed. ``both`` by default.
        projection_size: Length of every projection. 128 by default.

    Raises:
        ConfigError: When a layer does not exist, does not run or returns no feature map.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder_layers: Sequence[str],
        *,
        spatial_dims: int,
        in_channels: int,
        roi_size: Sequence[int],
        num_classes: int,
        method: str = "both",
        projection_size: int = 128,
    ) -> None:
        super().__init__()
        if not encoder_layers:
            raise ConfigError("encoder_layers is empty; name the layer that ends each scale of the encoder")
        chosen = find_method(method)
        self.network, self.encoder_layers = network, tuple(encoder_layers)
        device = next(network.parameters()).device
        channels = self._channels(torch.zeros(1, in_channels, *roi_size, device=device), spatial_dims)
        projected = channels if chosen.pairs != "none" else []
        predicted = projected if chosen.pairs == "byol" else []
        self.heads = nn.ModuleList(ProjectionHead(spatial_dims, count, projection_size) for count in projected)
        self.predictors = nn.ModuleList(_predictor(projection_size) for _ in predicted)
        self.classifier = nn.Linear(channels[-1], num_classes - 1) if chosen.classifies else None

    @torch.no_grad()
    def _channels(self, image: Tensor, spatial_dims: int) -> list[int]:
        """Channels of every layer, found by running the network once."""
        was_training = self.network.training
        with captured(self.network, self.encoder_layers) as features:
            self.network.eval()(image)
        self.network.train(was_training)
        for layer in self.encoder_layers:
            shape = tuple(getattr(features.get(layer), "shape", ()))
            if len(shape) != spatial_dims + 2:
                raise ConfigError(
                    f"encoder_layers names {layer!r}, which gives {f'shape {shape}' if shape else 'nothing'}; a layer "
                    f"must give (batch, channels, *{spatial_dims} axes): choose another"
                )
        return [features[layer].shape[1] for layer in self.encoder_layers]

    def forward(self, image: Tensor, *, segment: bool = True, with_heads: bool = True) -> dict[str, Any]:
        """Runs network and heads on images ``(B, n, H, W[, D])``.

        Args:
            image: Images, ``(B, n, H, W[, D])``.
            segment: Whether logits are returned; what is not returned must not wait for a gradient. True by default.
            with_heads: Whether the heads run. True by default.

        Returns:
            ``logits`` ``(B, C, H, W[, D])``; of the heads there are, ``projections``, one ``(B, size)`` for every
            layer, ``predictions`` likewise, and ``presence``, logits ``(B, C - 1)`` of the foreground classes.
        """
        with captured(self.network, self.encoder_layers if with_heads else ()) as features:
            logits = self.network(image)
        found: dict[str, Any] = {"logits": logits} if segment else {}
        if with_heads and len(self.heads):
            pairs = zip(self.heads, self.encoder_layers, strict=True)
            found["projections"] = [head(features[layer]) for head, layer in pairs]
        if with_heads and len(self.predictors):
            both = zip(self.predictors, found["projections"], strict=True)
            found["predictions"] = [predictor(projection) for predictor, projection in both]
        if with_heads and self.classifier is not None:
            found["presence"] = self.classifier(features[self.encoder_layers[-1]].flatten(2).mean(dim=2))
        return found

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Gives the weights of the encoder, which all terms of the loss share; none of the heads is among them."""
        for layer in self.encoder_layers:
            yield from self.network.get_submodule(layer).parameters()

    def freeze_encoder(self) -> None:
        """Stops the layers of the encoder from changing, the statistics of their batch norms included."""
        for layer in self.encoder_layers:
            self.network.get_submodule(layer).requires_grad_(False).eval()


def _predictor(size: int) -> nn.Module:
    """BYOL's predictor of one projection."""
    return nn.Sequential(nn.Linear(size, size), nn.BatchNorm1d(size), nn.ReLU(), nn.Linear(size, size))
