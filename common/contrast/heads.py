"""Adds heads to the encoder of a segmentation network; training needs them, inference leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, batch_norm, normalize

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


HeadForm = Literal["normalized", "plain"]


class ProjectionHead(nn.Module):
    """Maps the features of one scale to projections of length 1: convolution, batch norm, pooling, projection.

    Zhang et al. 2024, multi-scale projection head. The convolution has a stride of 2, so that the head of the finest
    scale costs little beside the network; the projection is SimCLR's, of two layers.

    Without more, projections of different frames hardly differ: batch norm has taken the mean of every channel away,
    so what is pooled is small beside the bias of the projection. The ``normalized`` form, ours, has a ReLU before the
    pooling and a batch norm after it.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        channels: Number of channels of the features.
        size: Length of the projection.
        head_form: Form of the head: ``normalized``, the default, or ``plain``, the source's.
        patch_grid: Number of patches along every axis that are projected apart, at least 1; fewer where the features
            are smaller. They are pooled before the convolution. ``None``, the default, pools over the whole image.

    Raises:
        ConfigError: When there is no such form, or the grid has no patch.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        size: int,
        *,
        head_form: HeadForm = "normalized",
        patch_grid: int | None = None,
    ) -> None:
        super().__init__()
        if head_form not in get_args(HeadForm):
            raise ConfigError(f"head_form is {head_form!r}; accepted are {' and '.join(get_args(HeadForm))}")
        if patch_grid is not None and patch_grid < 1:
            raise ConfigError(f"patch_grid is {patch_grid}; accepted are numbers of patches from 1")
        stride = 2 if patch_grid is None else 1
        self.conv = Conv[Conv.CONV, spatial_dims](
            channels, channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.norm = Norm[Norm.BATCH, spatial_dims](channels)
        normalized = head_form == "normalized"
        self.activation = nn.ReLU() if normalized else nn.Identity()
        self.embedding_norm = nn.BatchNorm1d(channels) if normalized else nn.Identity()
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, size))
        self.patch_grid = patch_grid

    def forward(self, *features: Tensor) -> Tensor:
        """Maps features ``(B, n, H, W[, D])`` to projections ``(B, size)``, or of patches ``(B, size, g, g[, g])``.

        Args:
            features: Features of one batch, perhaps in several parts; they are joined where they are small.
        """
        grid = self.patch_grid
        parts = features if grid is None else [pool_to_grid(part, [grid] * (part.ndim - 2)) for part in features]
        mapped = self.activation(self.norm(torch.cat([self.conv(part) for part in parts])))
        if grid is None:
            return self._project(mapped.flatten(2).mean(dim=2))
        rows = self._project(mapped.movedim(1, -1).flatten(0, -2))
        return rows.unflatten(0, (len(mapped), *mapped.shape[2:])).movedim(-1, 1)

    def _project(self, pooled: Tensor) -> Tensor:
        """Projections of rows of pooled features; a row alone has no statistics but those from before."""
        norm = self.embedding_norm
        if len(pooled) < 2 and isinstance(norm, nn.BatchNorm1d):
            pooled = batch_norm(pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            return normalize(self.project(pooled), dim=1)
        return normalize(self.project(norm(pooled)), dim=1)


def pool_to_grid(features: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns the means over the patches of a grid, ``(B, n, g, h[, d])``; at most as many as there are voxels.

    Args:
        features: Maps, ``(B, n, H, W[, D])``.
        grid: Numbers of patches g, h and, of volumes, d along the axes, each at least 1.
    """
    size: Any = [min(*pair) for pair in zip(grid, features.shape[2:], strict=True)]
    return adaptive_avg_pool2d(features, size) if features.ndim == 4 else adaptive_avg_pool3d(features, size)


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
        head_form: Form of the projection heads, see :class:`ProjectionHead`; ``normalized`` by default.
        patch_grid: Number of patches along every axis that are projected apart, see :class:`ProjectionHead`. ``None``,
            the default, projects whole images.

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
        head_form: HeadForm = "normalized",
        patch_grid: int | None = None,
    ) -> None:
        super().__init__()
        if not encoder_layers:
            raise ConfigError("encoder_layers is empty; name the layer that ends each scale of the encoder")
        chosen = find_method(method)
        self.network, self.encoder_layers, self.patch_grid = network, tuple(encoder_layers), patch_grid
        device = next(network.parameters()).device
        channels = self._channels(torch.zeros(1, in_channels, *roi_size, device=device), spatial_dims)
        projected = channels if chosen.pairs != "none" else []
        predicted = projected if chosen.pairs == "byol" else []
        form: dict[str, Any] = {"head_form": head_form, "patch_grid": patch_grid}
        self.heads = nn.ModuleList(ProjectionHead(spatial_dims, count, projection_size, **form) for count in projected)
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

    def forward(
        self, image: Tensor, *, apart: int = 0, segment: bool = True, with_heads: bool = True
    ) -> dict[str, Any]:
        """Runs network and heads on images ``(B, n, H, W[, D])``.

        Args:
            image: Images, ``(B, n, H, W[, D])``.
            apart: Number of first images that pass through the network by themselves, with batch statistics of their
                own; the heads see all images together. 0, the default, passes all at once.
            segment: Whether logits are returned; what is not returned must not wait for a gradient. True by default.
            with_heads: Whether the heads run. True by default.

        Returns:
            ``logits`` ``(B, C, H, W[, D])``; of the heads there are, ``projections``, one ``(B, size)`` for every
            layer, or ``(B, size, g, g[, g])`` of patches, ``predictions`` likewise, and ``presence``, logits
            ``(B, C - 1)`` of the foreground classes.
        """
        parts = [image[:apart], image[apart:]] if 0 < apart < len(image) else [image]
        layers = self.encoder_layers if with_heads else ()
        logits, *features = zip(*(self._pass(part, layers) for part in parts), strict=True)
        found: dict[str, Any] = {"logits": torch.cat(logits)} if segment else {}
        if with_heads and len(self.heads):
            found["projections"] = [head(*item) for head, item in zip(self.heads, features, strict=True)]
        if with_heads and len(self.predictors):
            both = zip(self.predictors, found["projections"], strict=True)
            found["predictions"] = [predictor(projection) for predictor, projection in both]
        if with_heads and self.classifier is not None:
            found["presence"] = self.classifier(torch.cat([item.flatten(2).mean(dim=2) for item in features[-1]]))
        return found

    def _pass(self, image: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """The logits of images, and what layers make of them."""
        with captured(self.network, layers) as features:
            logits = self.network(image)
        return [logits, *(features[layer] for layer in layers)]

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
