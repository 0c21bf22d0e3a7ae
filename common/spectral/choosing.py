"""Chooses how signatures of any network are computed, where its user does not: layers, window, form."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from ..errors import ConfigError
from ..networks.layers import find_layer
from ..networks.probing import is_scripted, probe_network
from ..runtime.distributed import unwrap
from .inferer import Precision, SpectralInferer
from .pseudo_layers import IMAGE, OUTPUT, PSEUDO_LAYERS
from .signature import SignatureForm

logger = logging.getLogger(__name__)

UNWATCHED = (IMAGE, OUTPUT)
"""What is described of a network whose layers cannot be watched."""


def choose_inferer(
    network: nn.Module,
    in_channels: int,
    *,
    roi_size: Sequence[int],
    layers: Sequence[str] | None = None,
    overlap: float = 0.25,
    divisor: int | Sequence[int] | None = None,
    sw_batch_size: int = 1,
    per_voxel: bool = True,
    signature_form: SignatureForm = "full",
    sigmoid: bool | None = None,
    precision: Precision = "float32",
) -> SpectralInferer:
    """Returns the inferer for a network that was written without one, after a try on an empty window.

    The defaults are those that found most near shifts on three networks, see ``common/spectral/README.md``; they are
    not the paper's.

    Args:
        network: Trained network; in evaluation mode afterwards.
        in_channels: Number of channels of its input, at least 1.
        roi_size: Sliding window, in voxels along each axis, as for the network's own inference.
        layers: Names of the feature layers, ``image``, ``output`` and ``layout`` among them. ``None``, the default, for
            the first and the last feature map and ``image``; of TorchScript, for ``image`` and ``output``.
        overlap: Share of a window that the next one covers again, in [0, 1). Default 0.25.
        divisor: Number of voxels of which window sizes are multiples, for all axes or for each; the window then shrinks
            with an image that is smaller. ``None``, the default, leaves it at ``roi_size``, as MONAI does.
        sw_batch_size: Number of windows that go through the network at once. Default 1.
        per_voxel: Whether the size of an image does not count. Default true.
        signature_form: ``unit`` (the paper) or ``full``, the default.
        sigmoid: Whether each channel of the logits is a class by itself. ``None``, the default, where there is but one.
        precision: ``float32``, the default, ``bfloat16`` or ``float16``, in which the network runs.

    Raises:
        ConfigError: When the network cannot be run on such a window alone, or a setting is not accepted.
    """
    plain = unwrap(network)
    inferer = SpectralInferer(
        roi_size,
        UNWATCHED if layers is None else _checked(plain, layers),
        divisor=tuple(roi_size) if divisor is None else divisor,
        overlap=overlap,
        sw_batch_size=sw_batch_size,
        per_voxel=per_voxel,
        signature_form=signature_form,
        precision=precision,
    )
    probe = probe_network(plain, in_channels, inferer.roi_size)
    inferer.sigmoid = probe.out_channels == 1 if sigmoid is None else sigmoid
    if layers is None:
        inferer.feature_layers = (*probe.ends, IMAGE) if probe.ends else UNWATCHED
        logger.info("layers: %s%s", ", ".join(inferer.feature_layers), _why(plain, probe.ends))
    return inferer


def _checked(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """The names of layers, each of which the network has and lets watch."""
    inner = [layer for layer in layers if layer not in PSEUDO_LAYERS]
    if inner and is_scripted(network):
        raise ConfigError(
            f"layers names {inner[0]!r}, but torch lets nobody watch the layers of TorchScript; accepted are "
            f"{', '.join(PSEUDO_LAYERS)}: for others, give the network's definition and its weights"
        )
    for layer in inner:
        find_layer(network, layer, setting="layers")
    return list(layers)


def _why(network: nn.Module, ends: Sequence[str]) -> str:
    """Why these layers were chosen, for the log."""
    if is_scripted(network):
        return " (torch lets nobody watch the layers of TorchScript: with definition and weights, more is found)"
    return " (the first and the last feature map, and the image)" if ends else ""
