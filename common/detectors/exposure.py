"""Trains networks to be unsure of other images, as Outlier Exposure does, beside what they learn to segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor, nn
from torch.nn.functional import pad

from ..data.cases import Case, Folders, labeled_cases
from ..data.folders import find_scans
from ..engine.iteration import Terms, generator_of_step, train_on_terms
from ..errors import ConfigError
from ..phantoms.volumes import PHANTOM_TASKS, ood_tasks


def uniform_cross_entropy(logits: Tensor, *, softmax: bool = False) -> Tensor:
    """Returns the cross entropy of the uniform distribution over the classes to a prediction, over all voxels.

    Hendrycks et al., *Deep Anomaly Detection with Outlier Exposure*, ICLR 2019; Lee et al., *Training
    Confidence-calibrated Classifiers for Detecting Out-of-Distribution Samples*, ICLR 2018. It is lowest, ``ln C``,
    where all classes are equally probable.

    Args:
        logits: Logits ``(B, K, H, W[, D])``.
        softmax: Whether they are those of a softmax; else each sigmoid channel is a choice of two. Default false.
    """
    if softmax:
        return -logits.log_softmax(dim=1).mean()
    sigmoid = torch.nn.functional.logsigmoid
    # Half of the cross entropy to 1 and half of that to 0.
    return -(sigmoid(logits) + sigmoid(-logits)).mean() / 2


def exposure_cases(
    exposure_dir: Folders | None,
    dataset_dir: Folders | None,
    output_dir: str,
    *,
    spatial_dims: int = 3,
    cases_per_folder: int = 20,
) -> list[Case]:
    """Returns the images that a network shall be unsure of.

    Args:
        exposure_dir: Folder or folders of scans of other kinds; none where ``dataset_dir`` is none, for phantoms.
        dataset_dir: Folder or folders that the network is trained on.
        output_dir: Folder of the results; phantoms are written below ``output_dir/phantoms``.
        spatial_dims: Number of spatial axes, 2 or 3. Default 3.
        cases_per_folder: Largest number of images of a folder, the first ones, at least 1: all are kept in memory.
            Default 20.

    Raises:
        ConfigError: When there is no folder of other scans beside given data.
        MissingDataError: When a folder is missing or holds no scan.
    """
    if exposure_dir:
        folders = [exposure_dir] if isinstance(exposure_dir, str) else list(exposure_dir)
        found = [find_scans(folder, spatial_dims=spatial_dims, name="exposure_dir") for folder in folders]
        return [case for cases in found for case in cases[:cases_per_folder]]
    if dataset_dir:
        raise ConfigError("exposure_dir is empty; give folders of scans that the network shall be unsure of")
    return labeled_cases(None, output_dir, spatial_dims=spatial_dims, phantom_tasks=ood_tasks(PHANTOM_TASKS))


class ExposurePatches:
    """Draws random patches of other images, each data set alike; images are prepared once and kept in memory.

    Args:
        cases: Images, see :func:`exposure_cases`.
        transforms: Transforms that load and prepare an image.
        roi_size: Size of a patch in voxels along each axis; smaller images are filled up with zeros.
    """

    def __init__(self, cases: Sequence[Case], transforms: Sequence[Any], roi_size: Sequence[int]) -> None:
        self.cases, self.transform, self.roi_size = list(cases), Compose(list(transforms)), tuple(roi_size)
        tasks = [str(case.get("task", "")) for case in self.cases]
        self._weights = torch.tensor([1 / tasks.count(task) for task in tasks], dtype=torch.float64)
        self._images: dict[int, Tensor] = {}

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Returns patches ``(number, C, *roi_size)``.

        Args:
            number: Number of patches, at least 1.
            generator: Generator of images and places, on the CPU.
        """
        chosen = torch.multinomial(self._weights, number, replacement=True, generator=generator)
        return torch.stack([self._crop(self._image(int(index)), generator) for index in chosen])

    def _image(self, index: int) -> Tensor:
        """A prepared image, ``(C, H, W[, D])``."""
        if index not in self._images:
            case = {key: value for key, value in self.cases[index].items() if key != "label"}
            self._images[index] = torch.as_tensor(self.transform(case)["image"]).as_subclass(torch.Tensor).float()
        return self._images[index]

    def _crop(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A patch at a random place."""
        missing = [max(0, size - extent) for size, extent in zip(self.roi_size, image.shape[1:], strict=True)]
        image = pad(image, [part for size in reversed(missing) for part in (size // 2, size - size // 2)])
        places = []
        for size, extent in zip(self.roi_size, image.shape[1:], strict=True):
            start = int(torch.randint(extent - size + 1, (), generator=generator))
            places.append(slice(start, start + size))
        return image[(slice(None), *places)]


class ExposureStep:
    """Trains on a batch and on as many patches of other images: segmentation there, uniform probabilities here.

    Args:
        patches: Source of patches of other images.
        exposure_weight: Weight of the uniform term, at least 0. Default 0.5, that of Hendrycks et al.
        softmax: Whether logits are those of a softmax. Default false.
        seed: Seed of the draws, at least 0. Default 0.

    Raises:
        ConfigError: When the weight is below 0.
    """

    def __init__(
        self, patches: ExposurePatches, *, exposure_weight: float = 0.5, softmax: bool = False, seed: int = 0
    ) -> None:
        check_weight(exposure_weight)
        self.patches, self.exposure_weight, self.softmax, self.seed = patches, exposure_weight, softmax, seed

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> Terms:
        """Runs one iteration of MONAI's trainer; returns the loss and its terms, detached."""
        generator = generator_of_step(engine, self.seed)
        other = self.patches.draw(len(batchdata["image"]), generator).to(engine.state.device)
        losses = partial(exposed_losses, loss=engine.loss_function, weight=self.exposure_weight, softmax=self.softmax)
        return train_on_terms(engine, {**tensors_of(batchdata), "other": other}, losses)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: draws depend on the step alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""


def exposed_losses(
    network: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    weight: float,
    softmax: bool = False,
) -> Terms:
    """Returns the loss of the labeled images, and of the others that of being unsure.

    Args:
        network: Network in training mode.
        batch: Tensors ``image``, ``label`` and ``other`` on the network's device.
        loss: Loss of logits and labels.
        weight: Weight of the other images.
        softmax: Whether logits are those of a softmax. Default false.
    """
    segmentation = loss(network(batch["image"]), batch["label"])
    uniform = uniform_cross_entropy(network(batch["other"]), softmax=softmax)
    return {"segmentation": segmentation, "exposure": weight * uniform}


def check_weight(exposure_weight: float) -> None:
    """Makes sure that a weight is accepted.

    Raises:
        ConfigError: When it is below 0.
    """
    if not exposure_weight >= 0:
        raise ConfigError(f"exposure_weight is {exposure_weight}; accepted are weights from 0")


def tensors_of(batchdata: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of a batch."""
    return {name: value for name, value in batchdata.items() if isinstance(value, Tensor)}
