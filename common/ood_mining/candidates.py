"""Loads cases with and without their foreground, and lists images without any, of nobody who is held out."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.cases import Case, Folders
from ..data.folders import find_scans
from ..data.split import CaseSplit, shared_names, without_patients
from .cutting import patch_place, patch_starts
from .removal import Fill, check_removal, removal_weights, remove_foreground, replaced_pixels

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

        What fills a patch is of that patch alone; the rim of foreground reaches into the patches beside it.

        Args:
            image: Image ``(C, H, W[, D])``, in raw intensities.
            label: Class indices, ``(1, H, W[, D])``.
            roi_size: Voxels of a patch along each axis.
            name: Name of the case, on which the draws of ``noise`` depend.
        """
        emptied, removed = image.clone(), torch.zeros(label.shape, dtype=torch.bool)
        weights = removal_weights(label[0] != 0, dilation=self.dilation, feather=self.feather)
        for start in patch_starts(label.shape[1:], roi_size):
            place = patch_place(start, roi_size)
            generator = torch.Generator().manual_seed(zlib.crc32(f"{name}|{start}".encode()) + self.seed)
            own = weights[place[1:]]
            emptied[place] = remove_foreground(
                image[place], label[place], fill=self.fill, weights=own, generator=generator
            )
            removed[place] = replaced_pixels(own)
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


def load_candidates(
    cases: Sequence[Case],
    load: Callable[[Any], Any],
    load_labeled: Callable[[Any], Any],
    prepare: Callable[[Any], Any],
) -> list[LoadedCase]:
    """Returns images without foreground in memory; those whose label holds some are left out, and the log says so.

    Args:
        cases: Cases with ``image``, some perhaps with ``label``.
        load: Transform that loads and checks an image.
        load_labeled: The same for an image with its label, which it turns into class indices.
        prepare: Transform that prepares an image after loading.
    """
    found = []
    for case in cases:
        loaded = (load_labeled if "label" in case else load)(dict(case))
        if "label" in case and bool(loaded["label"].any()):
            continue
        image = _plain(prepare(loaded)["image"])
        nothing = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        found.append(LoadedCase(str(case["case"]), image, image, nothing, nothing.bool()))
    if len(found) < len(cases):
        logger.info(
            "candidate_dir: %d images are left out, since their labels hold foreground", len(cases) - len(found)
        )
    return found


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
    if split is not None and found and not split.drawn:
        logger.warning(
            "candidate_dir: the lists of cases are set from outside, so nobody can tell which of %d images are of "
            "patients for validation; give a folder without them",
            len(found),
        )
    elif split is not None and found:
        held_out = split.held_out()
        taken = without_patients(found, held_out, what="images of candidate_dir")
        _warn_of_strangers(held_out, taken)
        found = taken
    return found


def _warn_of_strangers(held_out: Sequence[Case], taken: Sequence[Case]) -> None:
    """Warns of candidates that tell nothing by which persons who are held out would be known."""
    keys = {key for case in held_out for key in shared_names(case)} or {"patient", "region"}
    unknown = sum(not keys & shared_names(case).keys() for case in taken) if held_out else 0
    if unknown:
        logger.warning(
            "candidate_dir: %d of %d images name no %s, so nobody can tell whether they are of patients for validation "
            "or test; name it for each in dataset.json, in this folder and in the data set",
            unknown, len(taken), " or ".join(sorted(keys)),
        )  # fmt: skip


def _plain(image: Any) -> Tensor:
    """The tensor without metadata, in rows as memory holds it."""
    return torch.as_tensor(image).as_subclass(Tensor).contiguous()
