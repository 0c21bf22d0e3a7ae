"""Keeps slices in memory: with their labels, and the healthy ones that a denoiser learns from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import Dataset
from torch import Tensor

from ..data.cases import Case, Folders, name_folders
from ..data.folders import find_scans
from ..data.semi_supervised import without_labels
from ..data.split import CaseSplit, patient_of, split_cases, without_patients
from ..errors import ConfigError, LabelError, MissingDataError, NotEnoughCasesError
from ..reading import MAX_VOXELS
from ..runtime.digests import describe, settings_digest
from ..runtime.distributed import is_main_process
from ..runtime.seeds import step_generator
from ..runtime.stages import cases_digest
from ..runtime.weights import read_checkpoint, save_atomically
from .loading import PERCENTILE
from .masking import HideBlocks
from .noise import CoarseNoise
from .slices import slice_cases


@dataclass(frozen=True)
class PreparedSlice:
    """A slice in memory.

    Args:
        case: Case that the slice is loaded from.
        image: Prepared image, ``(C, H, W[, D])``.
        label: Class indices ``(1, H, W[, D])``; ``None`` without a label.
        healthy: Whether the whole label is background; true without a label.
    """

    case: Case
    image: Tensor
    label: Tensor | None
    healthy: bool


class SliceDataset(Dataset):
    """Slices (or, in 3-D, volumes), in memory: 4 bytes for each pixel and channel, 1 for the label.

    Args:
        data: Cases with ``image`` and, where labeled, ``label``; volumes are cut into slices, see :func:`slice_cases`.
        load: Function that loads and checks a case and turns its label into class indices.
        prepare: Function that scales a case and brings it to one size, without randomness.
        transform: Transform that makes random changes; ``None``, the default, for none.
        spatial_dims: Number of spatial axes, 2 or 3. 2 by default.
        percentile: Percentile of the scale, see :func:`slice_cases`. 99 by default.
        clear_border: Whether borders are subtracted first, see :func:`slice_cases`. False by default.
        alone: Whether pictures are there once more, each scaled by itself, see :func:`slice_cases`. False by default.
        max_voxels: Largest number of voxels that a file may declare, see :func:`slice_cases`. 500 million by default.
        cache_dir: Folder where prepared slices are kept for further runs on the same files with the same settings. With
            ``None``, the default, none are kept.
    """

    def __init__(
        self,
        data: Sequence[Case],
        load: Callable[[Case], dict[str, Any]],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        transform: Callable[..., Any] | None = None,
        spatial_dims: int = 2,
        percentile: float = PERCENTILE,
        clear_border: bool = False,
        alone: bool = False,
        max_voxels: int = MAX_VOXELS,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.cache_dir = cache_dir
        self.load, self.prepare = load, prepare
        self.spatial_dims = spatial_dims
        # What slice_cases is called with.
        self.slicing: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "percentile": percentile,
            "clear_border": clear_border,
            "alone": alone,
            "max_voxels": max_voxels,
        }

    @cached_property
    def slices(self) -> list[Case]:
        """All slices, as cases."""
        if self.cache_dir is not None:
            return [item.case for item in self.items]
        return slice_cases(self.data, **self.slicing)

    @cached_property
    def items(self) -> list[PreparedSlice]:
        """All slices, in memory."""
        if self.cache_dir is None:
            return [self._prepare(case) for case in self.slices]
        settings = settings_digest([self.load, self.prepare, self.slicing])
        # Where files lie goes in as well, since the cases name them.
        described = [cases_digest(self.data), describe(self.data), settings]
        path = Path(self.cache_dir) / f"{settings_digest(described)}.pt"
        if not path.is_file():
            items = [self._prepare(case) for case in slice_cases(self.data, **self.slicing)]
            if is_main_process():
                save_atomically({"items": [vars(item) for item in items]}, path)
            return items
        return [PreparedSlice(**item) for item in read_checkpoint(path)["items"]]

    @cached_property
    def judged(self) -> SliceDataset:
        """All slices as verdicts are asked for, without random changes: with their patient's others, and alone."""
        slicing = self.slicing | {"alone": True}
        return SliceDataset(self.data, self.load, self.prepare, **slicing, cache_dir=self.cache_dir)

    @property
    def num_original(self) -> int:
        """Number of slices, by the name that ``PatchSampler`` asks for."""
        return len(self.slices)

    def require_foreground(self, indices: Sequence[int]) -> None:
        """Makes sure that there is something to learn to segment.

        Raises:
            LabelError: When all labels of these slices are empty.
        """
        if all(self.items[index].healthy for index in indices):
            raise LabelError(
                f"the labels of all {len(indices)} training cases hold no foreground: there is nothing to learn to "
                "segment; check labels and foreground_labels, or raise num_labeled_patients"
            )

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``image`` ``(C, H, W[, D])`` and ``label`` ``(1, H, W[, D])``, changed at random."""
        item = self.items[index]
        data = {"image": item.image.clone()} | ({} if item.label is None else {"label": item.label.clone()})
        return data if self.transform is None else self.transform(data)

    def _prepare(self, case: Case) -> PreparedSlice:
        loaded = self.load(dict(case))
        healthy = "label" not in loaded or not bool(loaded["label"].any())
        ready = self.prepare(loaded)
        image, label = (_plain(ready[key]) if key in ready else None for key in ("image", "label"))
        assert image is not None
        return PreparedSlice(case, image, label, healthy)


def same_slices(dataset: SliceDataset, data: Sequence[Case]) -> SliceDataset:
    """Returns a data set of other cases, prepared as those of another, without random changes.

    Args:
        dataset: The other data set.
        data: The cases.
    """
    return SliceDataset(data, dataset.load, dataset.prepare, **dataset.slicing, cache_dir=dataset.cache_dir)


class HealthySlices(Dataset):
    """The healthy ones among slices: what a denoiser learns from.

    Args:
        source: Dataset that the slices come from; it also tells how those of ``healthy_dir`` are prepared.
        healthy: Choice of the healthy slices: ``labels``, the default, for those whose label is empty, or ``all`` for
            every one. Otherwise a list of names of cases, or the path of a JSON file that holds such a list. Of a
            volume, its own name or those of its slices count.
        healthy_dir: Folder or folders of further images without anything abnormal; labels are not needed. ``None``, the
            default, for none.
        split: Split of the training; images of ``healthy_dir`` of held-out patients are left out. ``None``, the
            default, for no such check.
        val_fraction: Share of the patients of every folder of ``healthy_dir`` whose images are for validation, in
            [0, 1), at least one of several; of a folder of one patient none is. 0, the default, for none at all.
        part: Part of ``healthy_dir`` that is taken: ``train``, the default, or ``val``.
        load: Function that loads and checks an image of ``healthy_dir``; needed where that is given. ``None`` by
            default.
        noise: Noise that is drawn once for each slice, so that validations can be compared; ``label`` is then its clean
            image. With ``None``, the default, slices are clean: batches get noise later.
        seed: Seed of that draw, at least 0. 0 by default.
    """

    def __init__(
        self,
        source: SliceDataset,
        *,
        healthy: str | Sequence[str] = "labels",
        healthy_dir: Folders | None = None,
        split: CaseSplit | None = None,
        val_fraction: float = 0.0,
        part: Literal["train", "val"] = "train",
        load: Callable[[Case], dict[str, Any]] | None = None,
        noise: CoarseNoise | HideBlocks | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__([])
        if healthy_dir and load is None:
            raise ConfigError("healthy_dir is given, but nothing that loads its images; set load")
        self.source, self.load, self.noise, self.seed = source, load, noise, seed
        self.names = read_healthy(healthy)
        self.folders, self.split = name_folders(healthy_dir) if healthy_dir else [], split
        self.val_fraction, self.part = val_fraction, part

    @cached_property
    def further(self) -> list[Case]:
        """The images of ``healthy_dir`` that belong to this part."""
        dims = self.source.spatial_dims
        found = [
            case | {"task": task}
            for folder, task in self.folders
            for case in find_scans(folder, spatial_dims=dims, name="healthy_dir")
        ]
        held_out = [] if self.split is None else self.split.held_out()
        kept = without_labels(without_patients(found, held_out, what="images of healthy_dir"))
        return [case for _, task in self.folders for case in self._own([c for c in kept if c["task"] == task])]

    def _own(self, cases: list[Case]) -> list[Case]:
        """Those images of a folder that belong to this part."""
        if self.val_fraction and len({patient_of(case) for case in cases}) > 1:
            return split_cases(cases, self.val_fraction, self.seed)[self.part]
        return cases if self.part == "train" else []

    @cached_property
    def images(self) -> list[Tensor]:
        """The prepared images of all healthy slices; there may be none where no denoiser is trained."""
        own = [item.image for item in self.source.items if self._is_healthy(item)]
        source = self.source
        rest = SliceDataset(self.further, self.load or source.load, source.prepare, **source.slicing)
        return own + [item.image for item in rest.items]

    def require_images(self) -> None:
        """Makes sure that there is a healthy slice.

        Raises:
            NotEnoughCasesError: When there is none.
        """
        if not self.images:
            raise NotEnoughCasesError(
                f"none of {len(self.source)} slices is healthy: every label holds foreground; name healthy slices in "
                "healthy, give healthy_dir, set healthy to 'all' to denoise every slice, or pretrained to false"
            )

    @cached_property
    def _ready(self) -> list[dict[str, Tensor]]:
        """The slices, with their noise where they have any."""
        if self.noise is None:
            return [{"image": image} for image in self.images]
        # The epochs of a training count from 1: no batch has the noise of a slice of the validation.
        draws = (step_generator(self.seed, 0, number) for number in range(len(self.images)))
        noisy = (self.noise({"image": image[None]}, draw) for image, draw in zip(self.images, draws, strict=False))
        return [{key: value[0] for key, value in item.items()} for item in noisy]

    @property
    def num_original(self) -> int:
        """Number of slices, by the name that ``PatchSampler`` asks for."""
        return len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Returns ``image`` ``(C, H, W[, D])`` and, where that has noise, ``label``, the same without; no copies."""
        return self._ready[index]

    def _is_healthy(self, item: PreparedSlice) -> bool:
        if self.names is None:
            return True
        if not self.names:
            return item.healthy
        return bool({str(item.case.get(key)) for key in ("case", "volume")} & self.names)


def read_healthy(healthy: str | Sequence[str]) -> frozenset[str] | None:
    """Returns the names of healthy cases; empty where labels tell them, ``None`` where all are.

    Args:
        healthy: Choice of the healthy slices, see :class:`HealthySlices`.

    Raises:
        MissingDataError: When a file is named that does not exist or holds no list of names.
    """
    if healthy == "all":
        return None
    if healthy == "labels":
        return frozenset()
    if isinstance(healthy, str):
        try:
            healthy = json.loads(Path(healthy).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MissingDataError(
                f"healthy is {healthy!r}, which is no JSON file; accepted are 'labels', 'all', a list of names of "
                "cases, or a JSON file with one"
            ) from error
    if not isinstance(healthy, list | tuple) or not healthy:
        raise MissingDataError(f"healthy gives {healthy!r}; accepted is a list of names of cases, at least one")
    return frozenset(str(name) for name in healthy)


def _plain(image: Any) -> Tensor:
    """The tensor without metadata."""
    return torch.as_tensor(image).as_subclass(Tensor).contiguous()
