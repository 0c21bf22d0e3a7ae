"""Segments by sliding windows and sums the spectral signature of the image meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, cast, get_args

import torch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor, nn

from ..errors import ConfigError, FeatureError
from ..runtime.distributed import unwrap
from ..runtime.progress import Progress, image_name
from ..transforms.padding import divisor_per_axis
from .collector import TOO_SMALL, SpectrumCollector
from .cores import fit_window, plan_cores
from .digest import WeightsDigest
from .pseudo_layers import uncertainty
from .settings import BankSettings
from .signature import SignatureForm

Precision = Literal["float32", "bfloat16", "float16"]


class SpectralInferer(Inferer):
    """Segments an image window by window and returns, beside the logits, the image's spectral signature.

    The feature layer is a name, found in whatever network is given, so any MONAI network will do. Every voxel counts
    exactly once: in the window where it lies deepest. Padding never counts.

    Args:
        roi_size: Largest sliding window, in voxels along each axis; 96 along each in Karimi and Gholipour 2023. For an
            image smaller than that the window shrinks to the image, rounded up to ``divisor``.
        feature_layers: Names of the feature layers, at least one with signatures; the paper's is the last map before
            the head alone. ``image`` stands for the image itself, ``output`` and ``layout`` for the
            segmentation, see :func:`image_signature`, :func:`output_signature` and :func:`layout_signature`.
        divisor: Number of voxels of which window sizes are multiples, as the network demands; one for all axes or one
            for each. Default 8.
        overlap: Share of a window that the next one covers again, in [0, 1). Default 0.25, as in the paper (24 of 96
            voxels).
        sw_batch_size: Number of windows that go through the network at once. Default 1.
        per_voxel: Whether singular values are divided by the square root of the number of voxels. The paper does not
            divide them. Default false.
        signature_form: ``unit`` (the paper, and the default) or ``full``, see :meth:`GramAccumulator.signature`.
        sigmoid: Whether each channel of the logits is a class by itself, without background, for the layers ``output``
            and ``layout`` and the uncertainty. Default false.
        precision: ``float32``, ``bfloat16`` or ``float16``: the floating type in which the network runs. Signatures of
            one bank need one precision. Default ``float32``.
        with_signature: Whether signatures are computed; with false, only logits are returned. Default true.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        feature_layers: Sequence[str],
        *,
        divisor: int | Sequence[int] = 8,
        overlap: float = 0.25,
        sw_batch_size: int = 1,
        per_voxel: bool = False,
        signature_form: SignatureForm = "unit",
        sigmoid: bool = False,
        precision: Precision = "float32",
        with_signature: bool = True,
    ) -> None:
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap is {overlap!r}; accepted is 0 <= overlap < 1")
        if precision not in get_args(Precision):
            raise ConfigError(f"precision is {precision!r}; accepted are {', '.join(get_args(Precision))}")
        if signature_form not in get_args(SignatureForm):
            raise ConfigError(
                f"signature_form is {signature_form!r}; accepted are {', '.join(get_args(SignatureForm))}"
            )
        if with_signature and not feature_layers:
            raise ConfigError("feature_layers is empty; name at least one layer of the network")
        self.roi_size = tuple(roi_size)
        self.feature_layers = tuple(feature_layers)
        divisors = divisor_per_axis(divisor, len(self.roi_size))
        # One number where all axes are alike, so that a bank fitted with 8 belongs to 8, 8, 8 as well.
        self.divisor: int | tuple[int, ...] = divisors[0] if len(set(divisors)) == 1 else divisors
        self.overlap = overlap
        self.sw_batch_size = sw_batch_size
        self.per_voxel = per_voxel
        self.signature_form: SignatureForm = signature_form
        self.sigmoid = sigmoid
        self.precision: Precision = precision
        self.with_signature = with_signature
        self._digest = WeightsDigest()

    @property
    def settings(self) -> dict[str, Any]:
        """What of this inferer decides over signatures, by the names of ``BankSettings``."""
        names = ("sigmoid", "per_voxel", "signature_form", "precision", "roi_size", "overlap", "divisor")
        return {"layers": self.feature_layers} | {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, settings: BankSettings, *, sw_batch_size: int = 1) -> SpectralInferer:
        """Returns the inferer that a bank was fitted with, from its settings.

        Args:
            settings: Settings of the bank.
            sw_batch_size: Number of windows that go through the network at once. Default 1.

        Raises:
            ConfigError: When a setting is not accepted.
        """
        precision = cast(Precision, settings.precision)
        names = ("divisor", "overlap", "per_voxel", "signature_form", "sigmoid")
        chosen: dict[str, Any] = {name: getattr(settings, name) for name in names}
        return cls(settings.roi_size, settings.layers, sw_batch_size=sw_batch_size, precision=precision, **chosen)

    def without_signature(self) -> SpectralInferer:
        """Returns an inferer that segments alike but gives the logits alone, as validation during training needs."""
        alone = copy.copy(self)
        alone.with_signature = False
        return alone

    def weights_digest(self, network: nn.Module) -> str:
        """Returns the SHA-256 of a network's weights, computed again only when they have changed."""
        return self._digest(network)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Segments a batch of images.

        Args:
            inputs: Images, ``(B, C, H, W[, D])``.
            network: Network that returns logits for a window.
            *args: Further arguments of the network.
            **kwargs: Further keyword arguments of the network.

        Returns:
            The logits ``(B, K, H, W[, D])``; with signatures, a dictionary of ``logits``, ``signature`` (``(B, D)``
            float64 on the CPU), ``layer_sizes`` (``(B, L)`` int64, the numbers that each layer has in a signature),
            ``uncertainty`` (``(B, 1)`` float64, see :func:`uncertainty`) and ``weights_digest`` (``(B, 32)`` uint8, the
            SHA-256 of the network's weights).

        Raises:
            ConfigError: When a layer does not exist or the window does not fit the image's number of axes.
            FeatureError: When the image is too small, or a feature map has no signature, being zero or not finite.
        """
        if not self.with_signature:
            self._check_extent(inputs.shape[2:], network)
            with self._autocast(inputs):
                return self._segment(inputs, lambda windows: network(windows, *args, **kwargs))
        logits, collector = self.collect(inputs, network, *args, **kwargs)
        digest = torch.frombuffer(bytearray.fromhex(self.weights_digest(network)), dtype=torch.uint8)
        parts = collector.parts(len(inputs), self.per_voxel, form=self.signature_form)
        return {
            "logits": logits,
            "signature": torch.stack([torch.cat(row) for row in parts]),
            "layer_sizes": torch.tensor([[len(part) for part in row] for row in parts]),
            "uncertainty": torch.stack([uncertainty(each, sigmoid=self.sigmoid) for each in logits]),
            "weights_digest": digest.repeat(len(inputs), 1),
        }

    def collect(
        self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, SpectrumCollector]:
        """Returns the logits of a batch of images and the collector that holds the Gram matrices of its layers.

        Args and errors are those of a call.
        """
        size = inputs.shape[2:]
        self._check_extent(size, network)
        collector = SpectrumCollector(
            self.feature_layers, size, fit_window(size, self.roi_size, self.divisor), self.overlap
        )

        def predictor(windows: Tensor, coordinates: Sequence[Sequence[slice]]) -> Tensor:
            collector.coordinates = coordinates
            return network(windows, *args, **kwargs)

        with self._autocast(inputs), collector.watch(unwrap(network)):
            logits = self._segment(inputs, predictor, with_coord=True)
        # A MetaTensor inside a dictionary breaks MONAI's decollation.
        image, logits = (value.as_tensor() if hasattr(value, "as_tensor") else value for value in (inputs, logits))
        collector.see(image, logits, sigmoid=self.sigmoid)
        return logits, collector

    def _check_extent(self, size: Sequence[int], network: nn.Module) -> None:
        """Raises when an image is one voxel at the network's coarsest scale, which has no variance to divide by."""
        normalized = any(isinstance(module, nn.modules.instancenorm._InstanceNorm) for module in network.modules())
        divisors = divisor_per_axis(self.divisor, len(size))
        if fit_window(size, self.roi_size, self.divisor) == self.roi_size:
            # The window did not shrink: the network sees what it always sees, padded where the image ends.
            return
        # An axis along which the network does not pool has no coarser scale.
        pooled = [(extent, number) for extent, number in zip(size, divisors, strict=True) if number > 1]
        if normalized and pooled and all(extent <= number for extent, number in pooled):
            number = max(divisors)
            raise FeatureError(TOO_SMALL.format(f"is no larger than {number} voxels along any axis that is pooled"))

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        """The floating type of ``precision``, whatever the caller's is."""
        dtype = getattr(torch, self.precision)
        return torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _segment(self, inputs: Tensor, predictor: Any, *, with_coord: bool = False) -> Any:
        """MONAI's sliding window; border voxels of a window weigh as much as inner ones, as in the paper."""
        window = fit_window(inputs.shape[2:], self.roi_size, self.divisor)
        cores = plan_cores(inputs.shape[2:], window, self.overlap)
        with Progress(image_name(), len(inputs) * prod(map(len, cores)), "windows", part=True) as progress:

            def counted(windows: Tensor, *args: Any) -> Any:
                found = predictor(windows, *args)
                progress.advance(len(windows))
                return found

            return sliding_window_inference(
                inputs, window, self.sw_batch_size, counted, self.overlap, with_coord=with_coord
            )
