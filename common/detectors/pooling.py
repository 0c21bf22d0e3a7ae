"""Pools feature maps of every window while the network runs: over all of it, by predicted class, and block by block.

Windows weigh alike: voxels where windows overlap count in each of them, and so does padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, one_hot

from ..errors import ConfigError
from ..networks.layers import find_layer
from ..networks.slicewise import unfold_slices
from .interface import Array
from .outputs import class_logits


class FeaturePooling:
    """Sums what detectors need of feature maps, window by window, and never keeps a map.

    Args:
        layers: Names of the layers.
        softmax: Whether logits are those of a softmax, see :func:`class_logits`. Default false.
        block: Edge of a block in voxels, at least 1. Default 8.
    """

    def __init__(self, layers: Sequence[str], *, softmax: bool = False, block: int = 8) -> None:
        self.layers, self.softmax, self.block = tuple(layers), softmax, block
        self._maps: dict[str, Tensor] = {}
        self._means: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        self._class_sums: dict[str, Tensor] = {}
        self._class_counts: dict[str, Tensor] = {}
        self._blocks: list[tuple[list[Tensor], Tensor]] = []

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        """Hooks the layers and the output of ``network`` while the block runs.

        Raises:
            ConfigError: When the network has no layer of that name.
        """
        handles = []
        try:
            for layer in self.layers:
                module = find_layer(network, layer, setting="feature_layers")
                handles.append(module.register_forward_hook(self._keep(layer)))
            handles.append(network.register_forward_hook(self._add))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, layer: str) -> Any:
        """A hook that keeps a map until the output of the same windows is there."""

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._maps[layer] = output.detach().float()

        return hook

    def _add(self, _network: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Adds the maps of the windows whose logits are there."""
        silent = [layer for layer in self.layers if layer not in self._maps]
        if silent:
            raise ConfigError(f"feature_layers names {silent}, which the network holds but does not run; choose others")
        logits = class_logits(output.detach().float(), softmax=self.softmax)
        classes = one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1).float()
        grid = [max(1, size // self.block) for size in classes.shape[2:]]
        shares = _pool(classes, grid).flatten(2).transpose(1, 2).flatten(0, 1)
        blocks = []
        for layer, kept in self._maps.items():
            # A two-dimensional network inside ``SliceWise`` sees all slices of all windows as one batch.
            features = unfold_slices(kept, output.shape[-1]) if kept.ndim < output.ndim else kept
            self._means[layer].append(features.flatten(2).mean(dim=2))
            # (B, C, cells) x (B, n, cells): each cell belongs to classes by their shares of its voxels.
            cells = _pool(classes, features.shape[2:]).flatten(2).double()
            sums = torch.einsum("bcv,bnv->cn", cells, features.flatten(2).double())
            counts = cells.sum(dim=(0, 2))
            self._class_sums[layer] = self._class_sums.get(layer, 0) + sums
            self._class_counts[layer] = self._class_counts.get(layer, 0) + counts
            blocks.append(_pool(features, grid).flatten(2).transpose(1, 2).flatten(0, 1).cpu())
        self._blocks.append((blocks, shares.cpu()))
        self._maps = {}

    def mean(self, layer: str) -> Array:
        """Returns the mean of a layer's features over all windows, ``(n,)``."""
        return np.asarray(torch.cat(self._means[layer]).double().mean(dim=0).cpu())

    def class_means(self, layer: str) -> Array:
        """Returns the mean of a layer's features over the voxels of each predicted class, ``(C, n)``.

        NaN stands for a class that is not predicted.
        """
        counts = self._class_counts[layer]
        means = self._class_sums[layer] / counts[:, None]
        # A class that covers less than a cell in all says nothing of it.
        return np.asarray(torch.where((counts >= 1)[:, None], means, torch.nan).cpu())

    def blocks(self, number: int, generator: torch.Generator) -> Array:
        """Returns blocks, half of them on the predicted foreground where there are as many.

        Args:
            number: Largest number of blocks, at least 1.
            generator: Generator of the draw, on the CPU.

        Returns:
            ``(blocks, 1 + layers, W)``: of each block first its class, the one that covers most of it, and the share of
            foreground, then its features layer by layer; zeros fill up to the widest layer.
        """
        shares = torch.cat([found for _, found in self._blocks])
        features = [torch.cat([maps[k] for maps, _ in self._blocks]) for k in range(len(self.layers))]
        order = torch.randperm(len(shares), generator=generator)
        foreground = 1 - shares[:, 0]
        hit = order[foreground[order] > 0][: max(1, number // 2)]
        rest = order[~torch.isin(order, hit)][: number - len(hit)]
        chosen = torch.cat([hit, rest])
        width = max(2, *(maps.shape[1] for maps in features))
        table = torch.zeros(len(chosen), 1 + len(features), width, dtype=torch.float64)
        table[:, 0, 0], table[:, 0, 1] = shares[chosen].argmax(dim=1).double(), foreground[chosen].double()
        for number_of_layer, maps in enumerate(features, start=1):
            table[:, number_of_layer, : maps.shape[1]] = maps[chosen].double()
        return table.numpy()


def _pool(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Means over the cells of a grid."""
    pool: Any = adaptive_avg_pool3d if maps.ndim == 5 else adaptive_avg_pool2d
    return torch.as_tensor(pool(maps, tuple(size)))
