"""Sums the spectra of feature maps while windows pass through a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, FeatureError
from ..networks.layers import find_layer
from ..networks.slicewise import unfold_slices
from .cores import cells_in_core, plan_cores
from .layout import layout_signature
from .pseudo_layers import IMAGE, OUTPUT, PSEUDO_LAYERS, image_signature, output_signature
from .signature import GramAccumulator, SignatureForm

TOO_SMALL = "the image is too small for the network: it {}; use a scan that shows more, or a finer spacing"


class SpectrumCollector:
    """Sums the Gram matrices of the core cells of every window, for every image of a batch and every layer.

    Args:
        layers: Names of the feature layers; ``image``, ``output`` and ``layout`` are the image and the segmentation,
            see ``pseudo_layers``.
        image_size: Voxels of the images along each axis, before padding.
        window: Voxels of the sliding window along each axis.
        overlap: Share of a window that the next one covers again, in [0, 1).
    """

    def __init__(self, layers: Sequence[str], image_size: Sequence[int], window: Sequence[int], overlap: float) -> None:
        self.layers = tuple(layers)
        self.window = tuple(window)
        self.cores = plan_cores(image_size, window, overlap)
        self.grams: dict[tuple[int, str], GramAccumulator] = {}
        self.coordinates: Sequence[Sequence[slice]] = ()
        self._whole: tuple[Tensor, Tensor, bool] | None = None

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        """Hooks the layers of ``network`` while the block runs.

        Raises:
            ConfigError: When the network has no layer of that name.
        """
        owner = threading.get_ident()
        handles = []
        try:
            for layer in self.layers:
                if layer in PSEUDO_LAYERS:
                    continue
                module = find_layer(network, layer, setting="feature_layers")
                handles.append(module.register_forward_hook(self._hook(layer, owner)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: str, owner: int) -> Any:
        """A forward hook that hands a layer's output on, unless another thread uses the network."""

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == owner:
                self._add(layer, output)

        return hook

    def _add(self, layer: str, features: Tensor) -> None:
        """Adds the core cells of a batch of windows."""
        shape = tuple(getattr(features, "shape", ()))
        depth = self.window[-1]
        if len(shape) == len(self.window) + 1 == 4 and shape[0] == len(self.coordinates) * depth:
            # A two-dimensional network inside ``SliceWise`` sees all slices of all windows as one batch.
            features = unfold_slices(features, depth)
            shape = tuple(features.shape)
        if len(shape) != len(self.window) + 2 or shape[0] != len(self.coordinates):
            raise FeatureError(
                f"layer {layer!r} gives shape {shape} for {len(self.coordinates)} window(s); feature "
                f"layers must give (window, channels, *{len(self.window)} axes): choose another in feature_layers"
            )
        for piece, place in zip(features, self.coordinates, strict=True):
            cells = [
                cells_in_core(cores[where.start], where.start, extent, size)
                for cores, where, extent, size in zip(self.cores, place[2:], self.window, piece.shape[1:], strict=True)
            ]
            key = (place[0].start, layer)
            self.grams.setdefault(key, GramAccumulator(piece.shape[0])).update(piece[(slice(None), *cells)])

    def see(self, images: Tensor, logits: Tensor, *, sigmoid: bool = False) -> None:
        """Keeps what the pseudo-layers describe, until signatures are asked for.

        Args:
            images: Images as the network sees them, ``(B, C, H, W[, D])``.
            logits: Logits of the whole images, ``(B, K, H, W[, D])``.
            sigmoid: Whether each channel of the logits is a class by itself, without background. Default false.
        """
        self._whole = (images, logits.detach(), sigmoid)

    def signatures(
        self,
        batch_size: int,
        *,
        per_voxel: bool,
        layers: Sequence[str] | None = None,
        form: SignatureForm = "unit",
    ) -> Tensor:
        """Returns the signatures of layers side by side, ``(B, D)`` float64 on the CPU; of all layers by default."""
        return torch.stack([torch.cat(parts) for parts in self.parts(batch_size, per_voxel, layers, form)])

    def parts(
        self, batch_size: int, per_voxel: bool, layers: Sequence[str] | None = None, form: SignatureForm = "unit"
    ) -> list[list[Tensor]]:
        """Returns the signature of every layer, in their order, for every image of the batch."""
        chosen = tuple(layers or self.layers)
        real = [layer for layer in chosen if layer not in PSEUDO_LAYERS]
        silent = [layer for layer in real if (0, layer) not in self.grams]
        if silent:
            raise ConfigError(f"feature_layers names {silent}, which the network holds but does not run; choose others")
        if not all(self.grams[image, layer].num_voxels for image in range(batch_size) for layer in real):
            raise FeatureError(TOO_SMALL.format("has no place in the feature layers"))
        return [[self._part(number, layer, per_voxel, form) for layer in chosen] for number in range(batch_size)]

    def _part(self, number: int, layer: str, per_voxel: bool, form: SignatureForm) -> Tensor:
        """The signature of one layer for one image of the batch."""
        if layer not in PSEUDO_LAYERS:
            return self.grams[number, layer].signature(per_voxel, form)
        if self._whole is None:
            raise FeatureError(f"feature_layers names {layer!r}, but the collector was shown no image and no output")
        images, logits, sigmoid = self._whole
        if layer == IMAGE:
            return image_signature(images[number], form)
        describe = output_signature if layer == OUTPUT else layout_signature
        return describe(logits[number], sigmoid=sigmoid)
