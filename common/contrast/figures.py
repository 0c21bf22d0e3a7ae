"""Draws how well each class is segmented, overlays, and how frames lie in the space of features."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ..data.cases import Case
from ..data.classes import legend_names
from ..data.split import patient_of
from ..figures import draw_bars, draw_overlays, draw_scatter
from ..figures.slices import telling_slice
from ..metrics.confusion import Matrix, channel_indices, class_dices, class_ious, confusion_matrix
from ..runtime.files import write_json
from ..runtime.progress import Progress
from ..runtime.sparing import sparing
from ..runtime.tables import number_text
from ..runtime.weights import load_weights
from .heads import captured
from .retrieval import nearest_agreement

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]


@dataclass
class Seen:
    """What a network makes of labeled frames.

    Args:
        embeddings: Layer -> its features of every frame, averaged over its pixels: one ``(D,)`` array for each frame.
        sets: Indices of the foreground classes that every frame shows, sorted.
        patients: Name of the patient or operation of every frame.
        matrices: Confusion matrices of the frames, ``(C, C)`` each.
        pictures: Name, picture, truth and prediction of the first frames.
    """

    embeddings: dict[str, list[Array]] = field(default_factory=dict)
    sets: list[tuple[int, ...]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    pictures: list[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]] = field(
        default_factory=list
    )

    def stacked(self, layer: str) -> Array:
        """Returns the embeddings of a layer, ``(N, D)``."""
        return np.stack(self.embeddings[layer])

    def agreement(self, layer: str) -> dict[str, float | None]:
        """Returns how often the nearest frame of another patient shows the same classes, by a layer."""
        return nearest_agreement(self.stacked(layer), self.sets, self.patients)


class FrameFigures:
    """Draws ``per_class.png``, ``overlays.png``, ``embeddings.png``, ``retrieval.png``; writes ``embeddings.json``.

    The embedding of a frame is what one layer makes of it, averaged over its pixels. It is computed with the weights
    from before the training and with those after it. The picture shows the first two principal components of either.
    Retrieval asks, for every scale of the encoder, whether the nearest frame of another patient shows the same classes.
    Where all frames are of one patient or operation it has no answer, and ``retrieval.png`` is not drawn.

    Args:
        network: Network that takes the weights; a copy of it runs.
        weights_file: Path of the weights after the training.
        before_file: Path of the weights before the training. With ``None``, a network that has learned nothing stands
            for them.
        data: Cases; those that are damaged, out-of-distribution or without a label are passed over.
        transform: Function that loads and prepares a case. Its label has a binary channel for each class, see
            ``ClassChannelsd``.
        embedding_layer: Name of the layer whose features are shown, as ``named_modules`` gives it.
        encoder_layers: Names of the layers whose retrieval is measured, one for every scale.
        device: Device that the network runs on.
        output_dir: Folder of the results.
        seed: Seed of the weights of the network that has learned nothing. 0 by default.
        foreground_labels: Data set -> label values of the classes that count, in order; for their names. With ``None``,
            the default, all count.
        pictures: Number of frames that are shown as overlays, at even distances of the list. 8 by default.
    """

    def __init__(
        self,
        network: nn.Module,
        weights_file: str,
        before_file: str | None,
        data: Sequence[Case],
        transform: Callable[[Case], Mapping[str, Any]],
        embedding_layer: str,
        encoder_layers: Sequence[str],
        device: torch.device,
        output_dir: str,
        *,
        seed: int = 0,
        foreground_labels: Mapping[str, Sequence[int]] | None = None,
        pictures: int = 8,
    ) -> None:
        self.network, self.files = network, (before_file, weights_file)
        self.data = [case for case in data if "label" in case and "damage" not in case and case["in_distribution"]]
        self.transform, self.embedding_layer, self.device = transform, embedding_layer, torch.device(device)
        self.encoder_layers = tuple(encoder_layers)
        self.output_dir, self.seed = Path(output_dir), seed
        self.foreground_labels = foreground_labels
        # Neighbors are often frames of one video, which look alike.
        last, number = max(len(self.data) - 1, 0), min(pictures, len(self.data))
        self.shown = set(np.linspace(0, last, number).round().astype(int).tolist())

    def run(self) -> dict[str, Any]:
        """Returns the content of ``embeddings.json``; nothing without labeled frames.

        Raises:
            MissingDataError: When there are no such weights.
            WeightsError: When weights belong to another network.
            ConfigError: When the network has no such layer.
        """
        if not self.data:
            return {}
        seen = {
            name: self._see(name, self._network(file))
            for name, file in zip(("before", "after"), self.files, strict=True)
        }
        report: dict[str, Any] = {name: item.agreement(self.embedding_layer) for name, item in seen.items()}
        scales = {layer: {name: item.agreement(layer) for name, item in seen.items()} for layer in self.encoder_layers}
        whole = report | {"layer": self.embedding_layer, "frames": len(self.data), "scales": scales}
        write_json(whole, self.output_dir / "embeddings.json")
        shares = _retrieval(scales)
        if shares:
            for place, layer in enumerate(scales):
                text = ", ".join(f"{name} {number_text(values[place])}" for name, values in shares.items())
                logger.info("%s: nearest frame of another patient shows the same classes: %s", layer, text)
        else:
            logger.info(
                "retrieval.png is not drawn: it compares frames of different patients or operations, and all %d are of "
                "one",
                len(self.data),
            )
        self._draw(seen["before"], seen["after"], shares)
        return whole

    def _network(self, file: str | None) -> nn.Module:
        """The network with the weights of a file, or with new ones."""
        made = copy.deepcopy(self.network).to(self.device).eval()
        if file:
            load_weights(made, file, device=self.device)
            return made
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for module in made.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]
        return made

    @torch.no_grad()
    def _see(self, name: str, network: nn.Module) -> Seen:
        """All frames, one after the other, by the network ``before`` or ``after`` training."""
        seen, layers = Seen(), list(dict.fromkeys([self.embedding_layer, *self.encoder_layers]))
        with Progress(f"embeddings {name} training", len(self.data), "frames") as progress:
            for index, case in enumerate(progress.over(self.data)):
                loaded = self.transform(case)
                # Every operation on a tensor with metadata would copy these, those of the network among them.
                image, label = (torch.as_tensor(loaded[key]).as_subclass(Tensor) for key in ("image", "label"))
                with captured(network, layers) as features:
                    logits = network(image[None].to(self.device))[0]
                for layer in layers:
                    pooled = features[layer][0].flatten(1).mean(dim=1)
                    seen.embeddings.setdefault(layer, []).append(pooled.double().cpu().numpy())
                seen.patients.append(patient_of({"image": case["case"], **case}))
                seen.sets.append(tuple(n for n, channel in enumerate(label, start=1) if bool(channel.any())))
                predicted, truth = logits.argmax(dim=0, keepdim=True).cpu(), channel_indices(label).cpu()
                seen.matrices.append(confusion_matrix(predicted, truth, len(logits)))
                if index in self.shown:
                    maps = (*telling_slice(image, truth), telling_slice(predicted, truth)[0])
                    seen.pictures.append((str(case["case"]), *maps))
        return seen

    @sparing("the figures of the classes")
    def _draw(self, before: Seen, after: Seen, shares: Mapping[str, Sequence[float]]) -> None:
        """All figures; that of the retrieval where there are shares of it."""
        total = np.sum(after.matrices, axis=0)
        legend = legend_names(self.data, len(total) - 1, self.foreground_labels)
        names = list(legend.values())
        bars = {"IoU": class_ious(total), "Dice": class_dices(total)}
        draw_bars(names, bars, self.output_dir / "per_class.png", xlabel="class", ylabel="over the test set")
        draw_overlays(after.pictures, names, self.output_dir / "overlays.png")
        labels = [", ".join(legend[index] for index in item) or "background" for item in after.sets]
        if len(labels) > 1:
            both = {"before training": before, "after training": after}
            points = {name: PCA(2).fit_transform(item.stacked(self.embedding_layer)) for name, item in both.items()}
            draw_scatter(points, labels, self.output_dir / "embeddings.png")
        if shares:
            named = {name if name == "chance" else f"{name} training": values for name, values in shares.items()}
            ylabel = "nearest frame shows the same classes"
            draw_bars(self.encoder_layers, named, self.output_dir / "retrieval.png", xlabel="layer", ylabel=ylabel)


def _retrieval(scales: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, list[float]]:
    """Shares of the frames at every scale: ``before``, ``after`` and ``chance``; nothing where none can be compared."""
    found = {
        "before": [scale["before"]["nearest"] for scale in scales.values()],
        "after": [scale["after"]["nearest"] for scale in scales.values()],
        "chance": [scale["after"]["chance"] for scale in scales.values()],
    }
    shares = {name: [value for value in values if value is not None] for name, values in found.items()}
    return shares if all(shares.values()) else {}
