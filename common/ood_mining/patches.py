"""Cuts patches from images on the fly, as they are and with their foreground removed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch import Tensor

from ..data.cases import Case, Folders
from ..data.split import CaseSplit
from ..errors import ConfigError, LabelError
from .candidates import LoadedCase, Removal, find_candidates, load_candidates, load_case
from .counting import patch_signs
from .cutting import cut_patch, padding_mask, patch_starts
from .removal import Fill

logger = logging.getLogger(__name__)

Kind = Literal["original", "emptied", "candidate"]


@dataclass(frozen=True)
class Patch:
    """A place in a case.

    Args:
        kind: ``original`` as it is; ``emptied``, its foreground removed; ``candidate``, of an image without any.
        case: Name of the case.
        start: Index of its first voxel along each axis, from 0.
    """

    kind: Kind
    case: str
    start: tuple[int, ...]


@dataclass(frozen=True)
class PatchCounts:
    """What the original patches hold.

    Args:
        positive: Number of patches with any foreground.
        negative: Number of patches with any background.
        foreground: Share of foreground pixels of each patch, in [0, 1]; padding does not count.
        positive_pixels: Number of pixels of foreground.
        negative_pixels: Number of pixels of background.
    """

    positive: int
    negative: int
    foreground: tuple[float, ...]
    positive_pixels: int
    negative_pixels: int


class PatchDataset(Dataset):
    """Patches of ``roi_size``, cut with zero padding: those of the cases, then the candidates for negative samples.

    Gao and Xu, section 4.1 and 3.1. Numbers ``0`` to ``num_original - 1`` are those of the cases; the same number of
    patches follows with their foreground removed in raw intensities, then those of images without foreground. Which of
    them are trained on, a sampler says. Images are loaded once and kept in memory, prepared, with and without
    foreground: about 8 bytes for each voxel and channel. No patch is written to disk.

    Args:
        data: Cases with ``image`` and ``label``.
        load: Transform or transforms that load and check a case and turn its label into class indices, of shape
            ``(1, H, W[, D])``.
        image_transforms: Transforms that prepare an image after loading; the foreground is removed before.
        roi_size: Voxels of a patch along each axis; 128 x 128 in the paper. Where it is as large as the slices, these
            are the patches.
        fill: What replaces the foreground, see :func:`remove_foreground`. Default ``zero``.
        dilation: Pixels by which foreground grows before it is removed, see :func:`remove_foreground`. Default none.
        feather: Pixels over which the fill fades into the image, see :func:`remove_foreground`. Default none.
        empty_candidates: Whether cases whose whole label is empty are images without foreground, candidates as those of
            ``candidate_dir``. Default false: their patches are trained on as all others.
        candidate_dir: Folders of images without foreground, the paper's other source; images whose label holds some are
            left out. Default none.
        load_candidate: Transform or transforms that load and check an image of ``candidate_dir``. Default none.
        split: Split of the training; images of ``candidate_dir`` of held-out patients are no candidates. Default none.
        count_padding: Whether padding counts as background, as in the paper. Default false.
        seed: Seed of the fill ``noise``, a whole number. Default 0.

    Raises:
        ConfigError: When ``candidate_dir`` is given without ``load_candidate``, or a setting is not accepted.
    """

    def __init__(
        self,
        data: Sequence[Case],
        load: Callable[[Case], dict[str, Any]] | Sequence[Any],
        image_transforms: Sequence[Callable[..., Any]],
        *,
        roi_size: Sequence[int],
        fill: Fill = "zero",
        dilation: int | None = None,
        feather: int | None = None,
        empty_candidates: bool = False,
        candidate_dir: Folders | None = None,
        load_candidate: Callable[[Case], dict[str, Any]] | Sequence[Any] | None = None,
        split: CaseSplit | None = None,
        count_padding: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(data)
        if candidate_dir and load_candidate is None:
            raise ConfigError("candidate_dir is given, but nothing that loads its images; set load_candidate")
        self.load = Compose(load)
        self.load_candidate = None if load_candidate is None else Compose(load_candidate)
        self.prepare = Compose(image_transforms)
        self.removal = Removal(fill, dilation, feather, seed)
        self.roi_size, self.count_padding, self.empty_candidates = tuple(roi_size), count_padding, empty_candidates
        self.candidate_dir, self.split = candidate_dir or [], split

    @cached_property
    def candidates(self) -> list[Case]:
        """The images of ``candidate_dir``."""
        return find_candidates(self.candidate_dir, len(self.roi_size), self.split)

    @cached_property
    def _labeled(self) -> list[LoadedCase]:
        """All cases, in memory, in their order."""
        return [load_case(case, self.load, self.prepare, self.removal, self.roi_size) for case in self.data]

    @cached_property
    def _trained(self) -> list[int]:
        """Numbers of the cases whose patches are trained on as they are."""
        cases = enumerate(self._labeled)
        return [number for number, case in cases if not self.empty_candidates or bool(case.label.any())]

    @property
    def trained(self) -> list[Case]:
        """The cases whose patches are trained on as they are."""
        return [self.data[number] for number in self._trained]

    @cached_property
    def cases(self) -> list[LoadedCase]:
        """Cases that are trained on, then images without foreground, in memory."""
        trained = set(self._trained)
        original = [self._labeled[number] for number in self._trained]
        rest = [case for number, case in enumerate(self._labeled) if number not in trained]
        if self.load_candidate is not None:
            rest += load_candidates(self.candidates, self.load_candidate, self.load, self.prepare)
        return original + rest

    @cached_property
    def _places(self) -> list[tuple[int, Patch]]:
        """The number of its case, and the patch, for every patch."""
        number = len(self._trained)
        parts: dict[Kind, Sequence[int]] = {
            "original": range(number),
            "emptied": range(number),
            "candidate": range(number, len(self.cases)),
        }
        return [
            (index, Patch(kind, self.cases[index].name, start))
            for kind, indices in parts.items()
            for index in indices
            for start in patch_starts(self.cases[index].label.shape[1:], self.roi_size)
        ]

    @property
    def num_original(self) -> int:
        """Number of the patches of the cases themselves."""
        return len(self.counts.foreground)

    @cached_property
    def counts(self) -> PatchCounts:
        """What the original patches hold.

        Raises:
            LabelError: When there is no foreground at all, or no background.
        """
        numbers = [number for number, (_, patch) in enumerate(self._places) if patch.kind == "original"]
        labels = [(self.label_at(number), self.padding_at(number)) for number in numbers]
        signs = [patch_signs(label, padding=padding, count_padding=self.count_padding) for label, padding in labels]
        positive, negative = (sum(column) for column in zip(*signs, strict=True)) if signs else (0, 0)
        if len(self.data) and not (positive and negative):
            absent = "background" if positive else "foreground"
            raise LabelError(
                f"the labels of all {len(self.data)} training cases hold no {absent}: there is nothing to tell apart; "
                "check labels and foreground_labels"
            )
        pixels = [(int((label != 0).sum()), int((~padding).sum())) for label, padding in labels]
        shares = tuple(found / inside for found, inside in pixels)
        foreground = sum(found for found, _ in pixels)
        counted = sum(label.numel() for label, _ in labels) if self.count_padding else sum(n for _, n in pixels)
        return PatchCounts(positive, negative, shares, foreground, counted - foreground)

    def __len__(self) -> int:
        return len(self._places)

    def patch(self, index: int) -> Patch:
        """Returns where a patch lies."""
        return self._places[index][1]

    def label_at(self, index: int) -> Tensor:
        """Returns the label ``(1, *roi_size)`` of a place, whatever was removed from its image."""
        case, patch = self._places[index]
        return cut_patch(self.cases[case].label, patch.start, self.roi_size)

    def padding_at(self, index: int) -> Tensor:
        """Returns the mask ``(1, *roi_size)`` of the pixels of a patch that lie outside its image."""
        case, patch = self._places[index]
        return padding_mask(self.cases[case].label.shape[1:], patch.start, self.roi_size)

    def removed_at(self, index: int) -> Tensor:
        """Returns the mask ``(1, *roi_size)`` of the pixels of a patch whose foreground, or rim of it, was removed."""
        case, patch = self._places[index]
        removed = cut_patch(self.cases[case].removed, patch.start, self.roi_size)
        return removed if patch.kind == "emptied" else torch.zeros_like(removed)

    def image_at(self, index: int) -> Tensor:
        """Returns the image ``(C, *roi_size)`` of a patch, prepared, without random changes."""
        case, patch = self._places[index]
        loaded = self.cases[case]
        return cut_patch(loaded.emptied if patch.kind == "emptied" else loaded.image, patch.start, self.roi_size)

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Gives patches without random changes, in order: ``image``, ``removed`` and ``padding`` of every batch."""
        for first in range(0, len(indices), batch_size):
            chosen = indices[first : first + batch_size]
            batch = {"image": torch.stack([self.image_at(index) for index in chosen])}
            batch["removed"] = torch.stack([self.removed_at(index) for index in chosen])
            padding = torch.stack([self.padding_at(index) for index in chosen])
            yield batch | ({"padding": padding} if not self.count_padding and bool(padding.any()) else {})

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns ``image`` ``(C, *roi_size)``, ``label`` ``(1, *roi_size)``, empty where ``ood`` is true."""
        image, label = self.image_at(index).clone(), self.label_at(index).clone()
        ood = self.patch(index).kind != "original"
        return {"image": image, "label": label.zero_() if ood else label, "ood": torch.tensor(ood)}
