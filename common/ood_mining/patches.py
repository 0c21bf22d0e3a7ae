"""Cuts patches from images on the fly, as they are and with their foreground removed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch import Tensor
from torch.nn.functional import pad

from ..data.cases import Case, Folders
from ..data.folders import find_scans
from ..errors import ConfigError, LabelError
from .counting import patch_signs
from .removal import Fill, remove_foreground

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
    """

    positive: int
    negative: int
    foreground: tuple[float, ...]


@dataclass(frozen=True)
class _LoadedCase:
    """A case in memory: prepared image, the same without foreground, label."""

    name: str
    image: Tensor
    emptied: Tensor
    label: Tensor


def patch_starts(size: Sequence[int], roi_size: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the first voxels of the patches that cover an image side by side; the last ones need padding.

    Args:
        size: Voxels of the image along each axis.
        roi_size: Voxels of a patch along each axis.

    Example:
        >>> patch_starts((5, 4), (4, 4))
        [(0, 0), (4, 0)]
    """
    return list(product(*(range(0, extent, step) for extent, step in zip(size, roi_size, strict=True))))


def cut_patch(image: Tensor, start: Sequence[int], roi_size: Sequence[int]) -> Tensor:
    """Returns a patch of an image ``(C, H, W[, D])``, with zeros where it reaches beyond the image."""
    inside = image[_place(start, roi_size)]
    missing = [n - size for n, size in zip(roi_size, inside.shape[1:], strict=True)]
    if not any(missing):
        return inside
    return pad(inside, [edge for gap in reversed(missing) for edge in (0, gap)])


class PatchDataset(Dataset):
    """Patches of ``roi_size``, cut with zero padding: those of the cases, then the candidates for negative samples.

    Gao and Xu, section 4.1 and 3.1. Numbers ``0`` to ``num_original - 1`` are those of the cases; the same number of
    patches follows with their foreground removed in raw intensities, then those of ``candidate_dir``. Which of them are
    trained on, a sampler says. Images are loaded once and kept in memory, prepared, with and without foreground: about
    8 bytes for each voxel and channel. No patch is written to disk.

    Args:
        data: Cases with ``image`` and ``label``.
        load: Transform or transforms that load and check a case and turn its label into class indices, of shape
            ``(1, H, W[, D])``.
        image_transforms: Transforms that prepare an image after loading; the foreground is removed before.
        transform: Random changes of a patch. Default none.
        roi_size: Voxels of a patch along each axis; 128 x 128 in the paper.
        fill: What replaces the foreground, see :func:`remove_foreground`. Default ``zero``.
        candidate_dir: Folders of images without foreground, the paper's other source. Default none.
        load_candidate: Transform or transforms that load and check an image of ``candidate_dir``. Default none.
        count_padding: Whether padding counts as background, as in the paper. Default false.
        seed: Seed of the fill ``noise``, a whole number. Default 0.

    Raises:
        ConfigError: When ``candidate_dir`` is given without ``load_candidate``.
    """

    def __init__(
        self,
        data: Sequence[Case],
        load: Callable[[Case], dict[str, Any]] | Sequence[Any],
        image_transforms: Sequence[Callable[..., Any]],
        *,
        roi_size: Sequence[int],
        transform: Callable[..., Any] | None = None,
        fill: Fill = "zero",
        candidate_dir: Folders | None = None,
        load_candidate: Callable[[Case], dict[str, Any]] | Sequence[Any] | None = None,
        count_padding: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(data, transform)
        if candidate_dir and load_candidate is None:
            raise ConfigError("candidate_dir is given, but nothing that loads its images; set load_candidate")
        self.load = Compose(load)
        self.load_candidate = None if load_candidate is None else Compose(load_candidate)
        self.prepare = Compose(image_transforms)
        self.roi_size, self.fill, self.count_padding, self.seed = tuple(roi_size), fill, count_padding, seed
        self.candidate_dir = candidate_dir or []

    @cached_property
    def candidates(self) -> list[Case]:
        """The images of ``candidate_dir``."""
        folders = [self.candidate_dir] if isinstance(self.candidate_dir, str) else list(self.candidate_dir)
        dims = len(self.roi_size)
        found = [case for folder in folders for case in find_scans(folder, spatial_dims=dims, name="candidate_dir")]
        return [{key: value for key, value in case.items() if key != "label"} for case in found]

    @cached_property
    def cases(self) -> list[_LoadedCase]:
        """All cases and candidate images, in memory."""
        original = [self._load(case) for case in self.data]
        return original + [self._load_candidate(case) for case in self.candidates]

    @cached_property
    def _places(self) -> list[tuple[int, Patch]]:
        """The number of its case, and the patch, for every patch."""
        places = {
            index: [(index, start) for start in patch_starts(case.label.shape[1:], self.roi_size)]
            for index, case in enumerate(self.cases)
        }
        number = len(self.data)
        parts: dict[Kind, Sequence[int]] = {
            "original": range(number),
            "emptied": range(number),
            "candidate": range(number, len(self.cases)),
        }
        return [
            (index, Patch(kind, self.cases[index].name, start))
            for kind, indices in parts.items()
            for case in indices
            for index, start in places[case]
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
        labels = [
            (self.label_at(n), self.padding_at(n))
            for n, (_, patch) in enumerate(self._places)
            if patch.kind == "original"
        ]
        signs = [patch_signs(label, padding=padding, count_padding=self.count_padding) for label, padding in labels]
        shares = tuple(float((label != 0).sum() / (~padding).sum()) for label, padding in labels)
        positive, negative = (sum(column) for column in zip(*signs, strict=True)) if signs else (0, 0)
        if signs and not (positive and negative):
            absent = "background" if positive else "foreground"
            raise LabelError(
                f"the labels of all {len(self.data)} training cases hold no {absent}: there is nothing to tell apart; "
                "check labels and foreground_labels"
            )
        return PatchCounts(positive, negative, shares)

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
        size = self.cases[case].label.shape[1:]
        padding = torch.ones(1, *self.roi_size, dtype=torch.bool)
        inside = [slice(0, max(extent - first, 0)) for first, extent in zip(patch.start, size, strict=True)]
        padding[(slice(None), *inside)] = False
        return padding

    def removed_at(self, index: int) -> Tensor:
        """Returns the mask ``(1, *roi_size)`` of the pixels of a patch whose foreground was removed."""
        label = self.label_at(index) != 0
        return label if self.patch(index).kind == "emptied" else torch.zeros_like(label)

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
        item: dict[str, Any] = {"image": image, "label": label.zero_() if ood else label}
        if self.transform is not None:
            item = self.transform(item)
        return {key: item[key] for key in ("image", "label")} | {"ood": torch.tensor(ood)}

    def _load(self, case: Case) -> _LoadedCase:
        """Loads a labeled case; its foreground is removed patch by patch, before the image is prepared."""
        loaded = self.load(dict(case))
        raw, label = loaded["image"], _plain(loaded["label"])
        emptied = raw.clone()
        for start in patch_starts(label.shape[1:], self.roi_size):
            place = _place(start, self.roi_size)
            number = zlib.crc32(f"{case.get('case')}|{start}".encode()) + self.seed
            generator = torch.Generator().manual_seed(number)
            emptied[place] = remove_foreground(_plain(raw[place]), label[place], fill=self.fill, generator=generator)
        images = [_plain(self.prepare(loaded | {"image": image})["image"]) for image in (raw, emptied)]
        return _LoadedCase(str(case.get("case", "")), images[0], images[1], label)

    def _load_candidate(self, case: Case) -> _LoadedCase:
        """Loads an image without foreground."""
        loaded = self.load_candidate(dict(case))  # type: ignore[misc]
        image = _plain(self.prepare(loaded)["image"])
        return _LoadedCase(str(case["case"]), image, image, torch.zeros(1, *image.shape[1:], dtype=torch.uint8))


def _place(start: Sequence[int], roi_size: Sequence[int]) -> tuple[slice, ...]:
    """Where a patch lies in an image with channels, as far as the image reaches."""
    return (slice(None), *(slice(first, first + extent) for first, extent in zip(start, roi_size, strict=True)))


def _plain(image: Any) -> Tensor:
    """The tensor without metadata, in rows as memory holds it."""
    return torch.as_tensor(image).as_subclass(Tensor).contiguous()
