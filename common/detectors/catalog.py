"""Lists every detector by name, with the measures that they need and the settings of their papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime.digests import settings_digest
from ..runtime.stages import file_digest
from ..spectral.distance import Distance
from ..spectral.pseudo_layers import IMAGE, LAYOUT, OUTPUT
from .confidence import soft_dice_confidence
from .dknn import DeepNearestNeighbors
from .histogram import intensity_histogram
from .interface import Array, Detector, OwnValue, Rule
from .outputs import energy, foreground_entropy, negative_max_logit, softmax_uncertainty
from .passes import DropoutPasses, EnsemblePasses, OdinPass, OwnNetworkPass, has_dropout, with_weights
from .pooling import FeaturePooling
from .rules import (
    ClassMahalanobis,
    KNearest,
    LayeredSignatureDistance,
    PCAMahalanobis,
    PCANearest,
    SignatureDistance,
)
from .scan import Measure, Scan


@dataclass(frozen=True)
class SignatureForm:
    """A form of the spectral signature with a distance.

    Args:
        places: Places of the feature layers whose signatures stand side by side, such as -1 for the last one; empty for
            all layers.
        per_voxel: Whether singular values are divided by the square root of the number of voxels.
        distance: Name of the distance.
        beside: Names from ``PSEUDO_LAYERS`` that stand beside the feature layers, all in the form ``full``; only for a
            distance by a shrunk covariance. Default none.
    """

    places: tuple[int, ...]
    per_voxel: bool
    distance: Distance
    beside: tuple[str, ...] = ()


EVERY: tuple[int, ...] = ()
"""All feature layers."""

ENDS = (0, -1)
"""The first and the last feature layer."""

INSIDE = (0, -2, -1)
"""The same, and the one before the last: what the bundles describe by default."""

SIGNATURES: dict[str, SignatureForm] = {
    "signature": SignatureForm((-1,), False, "nearest"),
    "signature_mahalanobis": SignatureForm((-1,), False, "mahalanobis"),
    "signature_per_voxel": SignatureForm((-1,), True, "nearest"),
    "signature_per_voxel_mahalanobis": SignatureForm((-1,), True, "mahalanobis"),
    "signature_layers": SignatureForm(EVERY, False, "nearest"),
    "signature_layers_mahalanobis": SignatureForm(EVERY, False, "mahalanobis"),
    "signature_layers_per_voxel": SignatureForm(EVERY, True, "nearest"),
    "signature_layers_per_voxel_mahalanobis": SignatureForm(EVERY, True, "mahalanobis"),
    "signature_full": SignatureForm(ENDS, True, "ledoit_wolf", (IMAGE, OUTPUT)),
    "signature_full_clusters": SignatureForm(ENDS, True, "clusters", (IMAGE, OUTPUT)),
    "signature_full_image": SignatureForm(ENDS, True, "ledoit_wolf", (IMAGE,)),
    "signature_full_image_clusters": SignatureForm(ENDS, True, "clusters", (IMAGE,)),
    "signature_inside_image_clusters": SignatureForm(INSIDE, True, "clusters", (IMAGE,)),
    "signature_every_image_clusters": SignatureForm(EVERY, True, "clusters", (IMAGE,)),
    "signature_layout_clusters": SignatureForm(INSIDE, True, "clusters", (IMAGE, LAYOUT)),
    "signature_every_layout_clusters": SignatureForm(EVERY, True, "clusters", (IMAGE, LAYOUT)),
}
"""Name of a detector -> its form; the first is the paper's. A new form is a line here."""


@dataclass(frozen=True)
class Catalog:
    """The detectors of a comparison.

    Args:
        detectors: All detectors, not fitted yet.
        measures: Every measure that they need, by name.
    """

    detectors: tuple[Detector, ...]
    measures: dict[str, Measure]


class DetectorCatalog:
    """Makes the detectors for a network; those that lack what they need are left out.

    Args:
        feature_layers: Names of the feature layers, the last one that of the paper's signature.
        bottleneck_layer: Name of the layer whose pooled features are described.
        softmax: Whether logits are those of a softmax, background first. Default false.
        device: Device that further networks run on. Default the CPU.
        ensemble_files: Weights of networks like the one that is judged, for UNC-Ensemble: two or more. Default none,
            which leaves it out.
        dropout_file: Weights that were trained with dropout, for UNC-Dropout. With ``None``, the default, those of the
            network itself. Without dropout in the network it is left out.
        exposure_file: Weights of Outlier Exposure. Default none, which leaves it out.
        lee_file: Weights of Lee 2017. Default none, which leaves it out.
        dropout_passes: Number of passes of UNC-Dropout, at least 1. Default 10, the paper's.
        odin_temperature: Temperature of ODIN, above 0. Default 1000, its paper's.
        odin_epsilon: Length of the step of ODIN, at least 0. Default 0.0014, its paper's.
        neighbors: Number of neighbors of DkNN in each layer, at least 1. Default 10.
        blocks: Number of blocks of a scan that DkNN keeps, at least 1. Default 100, the paper's.
        threshold_c: Standard deviations above the mean score of the training cases at which thresholds lie, the paper's
            C. Default 2.5.
        detector_names: Names of the detectors that are made; none, the default, for all. ``signature_<layer>``, the
            paper's signature of another feature layer, is made where it is named.
    """

    def __init__(
        self,
        feature_layers: Sequence[str],
        bottleneck_layer: str,
        *,
        softmax: bool = False,
        device: torch.device | str = "cpu",
        ensemble_files: Sequence[str] = (),
        dropout_file: str | None = None,
        exposure_file: str | None = None,
        lee_file: str | None = None,
        dropout_passes: int = 10,
        odin_temperature: float = 1000.0,
        odin_epsilon: float = 0.0014,
        neighbors: int = 10,
        blocks: int = 100,
        threshold_c: float = 2.5,
        detector_names: Sequence[str] = (),
    ) -> None:
        self.layers, self.bottleneck_layer, self.softmax = tuple(feature_layers), bottleneck_layer, softmax
        self.device, self.c = torch.device(device), threshold_c
        self.ensemble_files, self.dropout_file = tuple(ensemble_files), dropout_file
        self.exposure_file, self.lee_file = exposure_file, lee_file
        self.dropout_passes = dropout_passes
        self.odin_temperature, self.odin_epsilon = odin_temperature, odin_epsilon
        self.neighbors, self.blocks = neighbors, blocks
        self.detector_names = tuple(detector_names)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides over all measures; what decides over one alone is told by the measure."""
        return {name: getattr(self, name) for name in ("layers", "bottleneck_layer", "softmax")}

    def make(self, network: nn.Module) -> Catalog:
        """Returns the detectors for a network, whose weights are loaded.

        Raises:
            ConfigError: When a detector is named that does not exist, or lacks what it needs.
            MissingDataError: When a file of weights is missing.
            WeightsError: When weights belong to another network.
        """
        detectors, measures = self._signatures()
        for name, measure in self._outputs().items():
            measures[name] = measure
            detectors.append(self._detector(name, name, OwnValue()))
        for name, measure_name, rule in self._distances(measures):
            detectors.append(self._detector(name, measure_name, rule))
        for name, measure in self._passes(network).items():
            measures[name] = measure
            own = isinstance(measure.take, OwnNetworkPass)
            detectors.append(Detector(name, name, OwnValue(), c=self.c, own_network=own))
        return self._chosen(detectors, measures)

    def _chosen(self, detectors: Sequence[Detector], measures: Mapping[str, Measure]) -> Catalog:
        """The detectors that are named, or all but those of single layers, with their measures."""
        single = {f"signature_{layer}" for layer in self.layers}
        names = self.detector_names or [detector.name for detector in detectors if detector.name not in single]
        made = {detector.name: detector for detector in detectors}
        unknown = [name for name in names if name not in made]
        if unknown:
            raise ConfigError(f"detector_names has {unknown[0]!r}; accepted are {', '.join(made)}")
        found = tuple(made[name] for name in names)
        return Catalog(found, {detector.measure: measures[detector.measure] for detector in found})

    def _detector(self, name: str, measure: str, rule: Rule) -> Detector:
        return Detector(name, measure, rule, c=self.c)

    def _signatures(self) -> tuple[list[Detector], dict[str, Measure]]:
        """Detectors of all forms of the signature, and a measure for each form that differs in more than distance."""
        detectors, measures = [], {}
        for name, form in SIGNATURES.items():
            places = [place for place in form.places if place >= -len(self.layers)]
            layers = tuple(dict.fromkeys(self.layers[place] for place in places)) or self.layers
            if form.beside:
                inside = {EVERY: "_every", INSIDE: "_inside"}.get(form.places, "")
                measure = "_".join((f"spectrum_full{inside}", *form.beside))
                chosen = (*layers, *form.beside)
                measures[measure] = Measure(partial(_full_signature, layers=chosen), chosen)
                detectors.append(self._detector(name, measure, LayeredSignatureDistance(form.distance)))
                continue
            measure = f"spectrum{'_layers' * (form.places == EVERY)}{'_per_voxel' * form.per_voxel}"
            measures[measure] = Measure(partial(_signature, layers=layers, per_voxel=form.per_voxel), layers)
            detectors.append(self._detector(name, measure, SignatureDistance(form.distance)))
        for layer in self.layers:
            measure = f"spectrum_{layer}"
            measures[measure] = Measure(partial(_signature, layers=[layer], per_voxel=False), (layer,))
            detectors.append(self._detector(f"signature_{layer}", measure, SignatureDistance("nearest")))
        return detectors, measures

    @staticmethod
    def _outputs() -> dict[str, Measure]:
        """Measures of the logits of the shared pass."""
        functions = {
            "msp": softmax_uncertainty,
            "max_logit": negative_max_logit,
            "energy": energy,
            "entropy": foreground_entropy,
        }
        measures = {name: Measure(partial(_output, function=function)) for name, function in functions.items()}
        return measures | {"soft_dice": Measure(_soft_dice)}

    def _distances(self, measures: dict[str, Measure]) -> list[tuple[str, str, Rule]]:
        """Name, measure and rule of detectors of features and intensities; adds their measures."""
        last, bottleneck = self.layers[-1], self.bottleneck_layer
        measures["histogram"] = Measure(_histogram)
        measures["pooled"] = Measure(partial(_pooled, layer=bottleneck), pooled_layers=(bottleneck,))
        measures["classes"] = Measure(partial(_class_means, layer=last), pooled_layers=(last,))
        measures["blocks"] = Measure(
            partial(_blocks, number=self.blocks), pooled_layers=self.layers, settings=str(self.blocks)
        )
        return [
            ("mahalanobis", "classes", ClassMahalanobis()),
            ("dknn", "blocks", DeepNearestNeighbors(self.neighbors)),
            ("ihf", "histogram", PCAMahalanobis()),
            ("ihf_nearest", "histogram", PCANearest()),
            ("pca_mahalanobis", "pooled", PCAMahalanobis()),
            ("knn", "pooled", KNearest()),
        ]

    def _passes(self, network: nn.Module) -> dict[str, Measure]:
        """Measures that need passes of their own."""
        load = partial(with_weights, network, device=self.device)
        odin = OdinPass(temperature=self.odin_temperature, epsilon=self.odin_epsilon)
        found = {"odin": _own(odin, self.odin_temperature, self.odin_epsilon)}
        if has_dropout(network):
            dropping = load(self.dropout_file) if self.dropout_file else network
            passes = DropoutPasses(dropping, passes=self.dropout_passes)
            found["unc_dropout"] = _own(
                passes, self.dropout_passes, self.dropout_file and file_digest(self.dropout_file)
            )
        if self.ensemble_files:
            passes_of_all = EnsemblePasses([load(path) for path in self.ensemble_files])
            found["unc_ensemble"] = _own(passes_of_all, *map(file_digest, self.ensemble_files))
        for name, path in (("outlier_exposure", self.exposure_file), ("lee_2017", self.lee_file)):
            if path:
                found[name] = _own(OwnNetworkPass(load(path)), file_digest(path))
        return found


def _own(take: Callable[[Scan], Array], *settings: Any) -> Measure:
    """A measure by passes of its own, with what decides over it."""
    return Measure(take, settings=settings_digest(list(settings))[:8])


def _signature(scan: Scan, *, layers: Sequence[str], per_voxel: bool) -> Array:
    signatures = scan.outcome.collector.signatures(1, per_voxel=per_voxel, layers=layers)
    return np.asarray(signatures[0], dtype=np.float64)


def _full_signature(scan: Scan, *, layers: Sequence[str]) -> Array:
    """The number of layers, the length of each one's signature, then the signatures."""
    (parts,) = scan.outcome.collector.parts(1, True, layers, "full")
    return np.concatenate([[len(parts), *map(len, parts)], *parts])


def _output(scan: Scan, *, function: Callable[[Tensor], float]) -> Array:
    return np.array([function(scan.logits)])


def _soft_dice(scan: Scan) -> Array:
    return 1 - soft_dice_confidence(scan.outcome.logits[0], sigmoid=not scan.softmax).numpy()


def _histogram(scan: Scan) -> Array:
    return intensity_histogram(scan.image)


def _pooling(scan: Scan) -> FeaturePooling:
    pooling = scan.outcome.pooling
    assert pooling is not None, "a measure of pooled features names its layers"
    return pooling


def _pooled(scan: Scan, *, layer: str) -> Array:
    return _pooling(scan).mean(layer)


def _class_means(scan: Scan, *, layer: str) -> Array:
    return _pooling(scan).class_means(layer)


def _blocks(scan: Scan, *, number: int) -> Array:
    return _pooling(scan).blocks(number, scan.generator(1))
