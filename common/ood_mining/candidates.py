"""Loads cases with and without their foreground, and lists images without any, of nobody who is held out."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.cases import Case, Folders
from ..data.folders import find_scans
from ..data.split import CaseSplit, patient_of
from .cutting import patch_place, patch_starts
from .removal import Fill, check_removal, removal_weights, remove_foreground

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory.

    Args:
        name: Name of the case.
        image: Prepared image, ``(C, H, W[, D])``.
        emptied: The same without foreground.
        label: Class indices, ``(1, H, W[, D])``.
        removed: Mask of the pixels that differ, ``(1, H, W[, D])``.
    """

    name: str
    image: Tensor
    emptied: Tensor
    label: Tensor
    removed: Tensor


@dataclass(frozen=True)
class Removal:
    """How foreground is removed from the patches of an image.

    Args:
        fill: What replaces it, see :func:`remove_foreground`.
        dilation: Pixels by which the foreground grows first; ``None`` for none.
        feather: Pixels over which the fill fades into the image; ``None`` for none.
        seed: Seed of the fill ``noise``, a whole number.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    fill: Fill = "zero"
    dilation: int | None = None
    feather: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_removal(self.fill, self.dilation, self.feather)

    def __call__(self, image: Tensor, label: Tensor, roi_size: Sequence[int], name: str) -> tuple[Tensor, Tensor]:
        """Returns an image without foreground, and the mask ``(1, H, W[, D])`` of the pixels that were replaced.

        Every patch is emptied by itself, as if nothing lay beyond it.

        Args:
            image: Image ``(C, H, W[, D])``, in raw intensities.
            label: Class indices, ``(1, H, W[, D])``.
            roi_size: Voxels of a patch along each axis.
            name: Name of the case, on which the draws of ``noise`` depend.
        """
        emptied, removed = image.clone(), torch.zeros_like(label, dtype=torch.bool)
        widths: dict[str, Any] = {"dilation": self.dilation, "feather": self.feather}
        for start in patch_starts(label.shape[1:], roi_size):
            place = patch_place(start, roi_size)
            generator = torch.Generator().manual_seed(zlib.crc32(f"{name}|{start}".encode()) + self.seed)
            emptied[place] = remove_foreground(
                image[place], label[place], fill=self.fill, generator=generator, **widths
            )
            removed[place] = removal_weights(label[place][0] != 0, **widths)[None] > 0
        return emptied, removed


def load_case(
    case: Case,
    load: Callable[[Any], Any],
    prepare: Callable[[Any], Any],
    removal: Removal,
    roi_size: Sequence[int],
) -> LoadedCase:
    """Returns a labeled case in memory; its foreground is removed before the image is prepared.

    Args:
        case: Case with ``image`` and ``label``.
        load: Transform that loads and checks it and turns the label into class indices, ``(1, H, W[, D])``.
        prepare: Transform that prepares an image after loading.
        removal: Way to remove the foreground.
        roi_size: Voxels of a patch along each axis.
    """
    loaded = load(dict(case))
    raw, label = _plain(loaded["image"]), _plain(loaded["label"])
    image = _plain(prepare(loaded)["image"])
    if not bool(label.any()):
        return LoadedCase(str(case.get("case", "")), image, image, label, torch.zeros_like(label, dtype=torch.bool))
    emptied, removed = removal(raw, label, roi_size, str(case.get("case")))
    source = loaded["image"].clone()
    source[:] = emptied
    emptied = _plain(prepare(loaded | {"image": source})["image"])
    return LoadedCase(str(case.get("case", "")), image, emptied, label, removed)


def load_candidate(case: Case, load: Callable[[Any], Any], prepare: Callable[[Any], Any]) -> LoadedCase:
    """Returns an image without foreground in memory.

    Args:
        case: Case with ``image``.
        load: Transform that loads and checks it.
        prepare: Transform that prepares an image after loading.
    """
    image = _plain(prepare(load(dict(case)))["image"])
    nothing = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
    return LoadedCase(str(case["case"]), image, image, nothing, nothing.bool())


def find_candidates(candidate_dir: Folders, spatial_dims: int, split: CaseSplit | None = None) -> list[Case]:
    """Returns the images of folders that hold no foreground, without those of patients who are held out.

    Args:
        candidate_dir: Folder or folders of images.
        spatial_dims: Number of spatial axes, 2 or 3.
        split: Split of the training: images of its validation and test are left out, and so are all others of these
            patients or regions. Default none: every image is taken.
    """
    folders = [candidate_dir] if isinstance(candidate_dir, str) else list(candidate_dir)
    found = [case for folder in folders for case in find_scans(folder, spatial_dims=spatial_dims, name="candidate_dir")]
    if split is not None and found:
        held_out = {name for case in split.held_out() for name in _names(case)}
        taken = [case for case in found if not held_out & _names(case)]
        logger.info(
            "candidate_dir: %d images, %d of them left out, since their patients are for validation or test",
            len(found), len(found) - len(taken),
        )  # fmt: skip
        found = taken
    return [{key: value for key, value in case.items() if key != "label"} for case in found]


def _names(case: Case) -> set[str]:
    """What tells whether an image is another's, or of the same person: its file, and its patient or region."""
    return {str(Path(str(case["image"])).resolve()), patient_of(case)}


def _plain(image: Any) -> Tensor:
    """The tensor without metadata, in rows as memory holds it."""
    return torch.as_tensor(image).as_subclass(Tensor).contiguous()
